"""Jobs as JSON: for callers and for workers. Inputs and outputs go in as the text that they are."""

import json
from typing import Any

from local_endpoint.jobs import Job, Status
from local_endpoint.ledger import Chunks, Taken, View

__all__ = ["chunks_json", "status_json", "summary", "taken_json"]


def summary(job: Job, now_ms: int) -> dict[str, Any]:
    """A job's state without its data."""
    body: dict[str, Any] = {"delayTime": job.delay_ms(now_ms), "id": job.id, "status": job.status}
    if job.status is Status.IN_QUEUE:
        return body
    if job.worker is not None:
        body["workerId"] = job.worker
    if job.execution_ms is not None:
        body["executionTime"] = job.execution_ms
        body["gpu"] = job.gpu
    return body


def status_json(view: View, now_ms: int) -> bytes:
    """The body of /status and its relatives, and of webhooks.

    `output` is the progress while a job is IN_PROGRESS. `input` is left out where it is very long.
    """
    body = summary(view.job, now_ms)
    if view.job.status is Status.IN_QUEUE:
        return _object(body)
    if view.error is not None:
        body["error"] = view.error
    return _object(body, input=view.input, output=view.output)


def chunks_json(chunks: Chunks) -> bytes:
    """The body of /stream. While more is to come, the job is not said to be over: clients would leave."""
    status = Status.IN_PROGRESS if chunks.more else chunks.job.status
    outputs = b",".join(b'{"output":' + output + b"}" for output in chunks.outputs)
    return _object({"status": status}, stream=b"[" + outputs + b"]")


def taken_json(taken: Taken) -> bytes:
    """A job as its worker gets it."""
    extras = taken.extras[1:-1]
    head = b'{"id":' + json.dumps(taken.job.id).encode() + b',"input":' + taken.input
    return head + (b"," + extras if extras else b"") + b"}"


def _object(fields: dict[str, Any], **raw: bytes | None) -> bytes:
    """A JSON object of plain values and of values that are JSON text already."""
    head = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    parts = [b',"' + name.encode() + b'":' + text for name, text in raw.items() if text is not None]
    return head[:-1] + b"".join(parts) + b"}"
