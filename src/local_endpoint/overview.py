"""What the console shows: jobs with a glimpse of what they are, workers and their load, times, webhooks.

No part of the platform's API: the page alone asks for it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from local_endpoint.core import Core
from local_endpoint.jobs import Job, Status
from local_endpoint.ledger import Ledger
from local_endpoint.render import summary
from local_endpoint.workers import Worker

__all__ = ["busy_share", "overview", "percentiles"]

_SHOWN_JOBS = 100
_TIMED_JOBS = 2000
_PROMPT_LENGTH = 200
_ERROR_LENGTH = 300
_INPUT_READ_BYTES = 64 * 1024
_PROGRESS_READ_BYTES = 256 * 1024
_LOAD_MS = 60_000


async def overview(core: Core) -> dict[str, Any]:
    """All of it, as JSON."""
    now_ms = core.clock.now_ms()
    jobs, glimpses = await core.store.read_large(lambda ledger: _read(ledger, now_ms))
    held = core.store.reader.held()
    return {
        "health": core.health(),
        "times": {
            "delay": percentiles([job.delay_ms(now_ms) for job in jobs if job.taken_ms is not None]),
            "execution": percentiles([ms for job in jobs if (ms := job.execution_ms) is not None]),
        },
        "workers": [_worker(worker, held, jobs, now_ms) for worker in core.workers],
        "jobs": [_job(job, glimpses.get(job.id, {}), now_ms) for job in jobs[:_SHOWN_JOBS]],
        "webhooks": list(reversed(core.webhook_tries)),
    }


def percentiles(values: Sequence[int]) -> dict[str, int | None]:
    """The values at or below which 50, 90 and 99 % of them lie, the largest, and how many there are."""
    ranked = sorted(values)

    def at(share: float) -> int | None:
        return ranked[math.ceil(share * len(ranked)) - 1] if ranked else None

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "most": at(1), "count": len(ranked)}


def busy_share(spans: Iterable[tuple[int, int]], since_ms: int, until_ms: int) -> float:
    """The share of a time in which at least one of the spans lay."""
    busy_ms, reached_ms = 0, since_ms
    for start_ms, end_ms in sorted(spans):
        start_ms, end_ms = max(start_ms, reached_ms), min(end_ms, until_ms)
        if end_ms > start_ms:
            busy_ms += end_ms - start_ms
            reached_ms = end_ms
    return busy_ms / (until_ms - since_ms)


def _read(ledger: Ledger, now_ms: int) -> tuple[list[Job], dict[str, dict[str, Any]]]:
    """The newest jobs, and of the newest of them what they say of themselves."""
    jobs = ledger.recent(now_ms, _TIMED_JOBS)
    rows = ledger.db.execute(
        "SELECT id, CASE WHEN length(input) <= ? THEN input END, CASE WHEN length(output) <= ? AND status = ? "
        "THEN output END, error FROM jobs JOIN inputs USING (seq) LEFT JOIN results USING (seq) "
        "ORDER BY seq DESC LIMIT ?",
        (_INPUT_READ_BYTES, _PROGRESS_READ_BYTES, Status.IN_PROGRESS, _SHOWN_JOBS),
    )
    return jobs, {job_id: _glimpse(*given) for job_id, *given in rows}


def _glimpse(given: bytes | None, progress: bytes | None, error: str | None) -> dict[str, Any]:
    glimpse: dict[str, Any] = {}
    asked, steps = _object(given), _object(progress)
    if isinstance(prompt := asked.get("prompt"), str):
        glimpse["prompt"] = prompt[:_PROMPT_LENGTH]
    if steps:
        glimpse["progress"] = {name: steps.get(name) for name in ("step", "steps")}
    if error is not None:
        glimpse["error"] = error[:_ERROR_LENGTH]
    return glimpse


def _object(text: bytes | None) -> dict[str, Any]:
    value = json.loads(text) if text else None
    return value if isinstance(value, dict) else {}


def _job(job: Job, glimpse: dict[str, Any], now_ms: int) -> dict[str, Any]:
    running = job.status is Status.IN_PROGRESS and job.taken_ms is not None
    return {
        **summary(job, now_ms),
        "createdAt": job.created_ms,
        **({"runningMs": now_ms - (job.taken_ms or now_ms)} if running else {}),
        **glimpse,
    }


def _worker(worker: Worker, held: Iterable[Job], jobs: Iterable[Job], now_ms: int) -> dict[str, Any]:
    at_work = sum(job.worker == worker.id for job in held)
    mine = [job for job in jobs if job.worker == worker.id and job.status is not Status.IN_QUEUE]
    spans = ((job.taken_ms or 0, job.finished_ms or now_ms) for job in mine)
    return {
        "id": worker.id,
        "gpu": worker.gpu,
        "state": _state(worker, at_work),
        "jobs": at_work,
        "busy": round(busy_share(spans, now_ms - _LOAD_MS, now_ms), 3),
        "done": sum(job.status is Status.COMPLETED for job in mine),
        "heardMs": max(0, now_ms - worker.seen_ms),
    }


def _state(worker: Worker, at_work: int) -> str:
    if worker.retired:
        return "leaving"
    if worker.warm_at_ms is not None or (worker.new and not at_work):
        return "starting"
    if not worker.asks:
        return "silent"
    if worker.cold:
        return "asleep"
    return "busy" if at_work else "idle"
