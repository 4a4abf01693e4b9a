"""The callers' side, under /v2/{endpoint_id}: the platform's job API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from local_endpoint import openapi
from local_endpoint.bodies import read_body
from local_endpoint.core import Core, Submission
from local_endpoint.errors import ApiError
from local_endpoint.limits import Gate
from local_endpoint.render import chunks_json, status_json, summary
from local_endpoint.submissions import parse_submission
from local_endpoint.waiting import hangup

__all__ = ["client_router"]

_LATER = (429, 503)
_SHORTEST_WAIT_MS, _LONGEST_WAIT_MS = 1000, 300_000


def client_router(core: Core, gate: Gate) -> APIRouter:
    """All routes that callers use; every one of them needs a key and raises `ApiError` without."""
    api = APIRouter()
    config = core.config

    @contextmanager
    def enter(request: Request, operation: str) -> Iterator[None]:
        """Key first: who has none learns nothing about ids."""
        with gate.enter(request.headers.get("authorization"), operation):
            if request.path_params["endpoint_id"] != config.endpoint_id:
                raise ApiError(404, "no such endpoint")
            if status := core.fate.refusal():
                message = f"simulated: {operation} is answered {status} (--simulate rate)"
                raise ApiError(status, message, {"Retry-After": "1"} if status in _LATER else None)
            yield

    async def submission(request: Request, *, sync: bool) -> Submission:
        limit_bytes = config.runsync_limit_bytes if sync else config.run_limit_bytes
        body = await read_body(request, limit_bytes=limit_bytes, timeout_s=config.request_timeout_s)
        return parse_submission(body, sync=sync, config=config)

    def wait_s(request: Request) -> float:
        given = request.query_params.get("wait")
        if given is None:
            return config.runsync_wait_ms / 1000
        if not (given.isascii() and given.isdigit() and len(given) < 10):
            raise ApiError(400, f"wait must be a whole number of milliseconds; it is {given[:60]!r}")
        return min(max(int(given), _SHORTEST_WAIT_MS), _LONGEST_WAIT_MS) / 1000

    @api.post("/run", **openapi.RUN)
    async def run(request: Request) -> Response:
        with enter(request, "run"):
            job = await core.submit(await submission(request, sync=False))
            return _json({"id": job.id, "status": job.status})

    @api.post("/runsync", **openapi.RUNSYNC)
    async def runsync(request: Request) -> Response:
        with enter(request, "runsync"):
            longest_s = wait_s(request)
            job = await core.submit(await submission(request, sync=True))
            async with hangup(request) as gone:
                view = await core.wait(job.id, longest_s, gone)
            return _raw(status_json(view, core.clock.now_ms()))

    @api.api_route("/status/{job_id}", methods=["GET", "POST"], **openapi.STATUS)
    async def status(request: Request) -> Response:
        with enter(request, "status"):
            return _raw(status_json(await core.view(_job_id(request)), core.clock.now_ms()))

    @api.api_route("/status-sync/{job_id}", methods=["GET", "POST"], **openapi.STATUS_SYNC)
    async def status_sync(request: Request) -> Response:
        with enter(request, "status"):
            longest_s = wait_s(request)
            await _skip_body(request)
            async with hangup(request) as gone:
                view = await core.wait(_job_id(request), longest_s, gone)
            return _raw(status_json(view, core.clock.now_ms()))

    @api.api_route("/stream/{job_id}", methods=["GET", "POST"], **openapi.STREAM)
    async def stream(request: Request) -> Response:
        with enter(request, "stream"):
            await _skip_body(request)
            async with hangup(request) as gone:
                return _raw(chunks_json(await core.stream(_job_id(request), gone)))

    @api.post("/cancel/{job_id}", **openapi.CANCEL)
    async def cancel(request: Request) -> Response:
        with enter(request, "cancel"):
            return _json(summary(await core.cancel(_job_id(request)), core.clock.now_ms()))

    @api.post("/retry/{job_id}", **openapi.RETRY)
    async def retry(request: Request) -> Response:
        with enter(request, "retry"):
            job = await core.retry(_job_id(request))
            return _json({"id": job.id, "status": job.status})

    @api.post("/purge-queue", **openapi.PURGE_QUEUE)
    async def purge_queue(request: Request) -> Response:
        with enter(request, "purge-queue"):
            return _json({"removed": await core.purge_queue(), "status": "completed"})

    @api.get("/health", **openapi.HEALTH)
    async def health(request: Request) -> Response:
        with enter(request, "health"):
            return _json(core.health())

    @api.get("/requests", **openapi.REQUESTS)
    async def requests(request: Request) -> Response:
        with enter(request, "requests"):
            now_ms = core.clock.now_ms()
            jobs = [summary(job, now_ms) | {"createdAt": job.created_ms} for job in core.recent(100)]
            return _json({"requests": jobs})

    return api


def _job_id(request: Request) -> str:
    return request.path_params["job_id"]


async def _skip_body(request: Request) -> None:
    """Read and drop a small body, so that what comes after it can only be the caller hanging up."""
    await read_body(request, limit_bytes=64 * 1024, timeout_s=10)


def _json(value: Any) -> Response:
    return Response(json.dumps(value), media_type="application/json")


def _raw(body: bytes) -> Response:
    return Response(body, media_type="application/json")
