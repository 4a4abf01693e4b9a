"""The workers' side: what the unmodified SDK calls when its environment names this endpoint.

Answers are chosen for how the SDK takes them: it asks again at once after 204 and after any error, so a
request that has nothing to give is held open; it tries a result again only after 5xx, and loses it
silently after 4xx. A result that does not count (the job was cancelled, or is another worker's) is
therefore answered 200 and `ignored`, and one that cannot be stored as it is fails its job with the reason.
"""

import asyncio
import hmac
import json
import sqlite3
from typing import Any

from fastapi import APIRouter, Request, Response

from local_endpoint.bodies import dump_json, parse_json, read_body
from local_endpoint.config import Config
from local_endpoint.core import Core
from local_endpoint.errors import ApiError
from local_endpoint.jobs import NotAllowed
from local_endpoint.limits import bearer_key
from local_endpoint.render import taken_json
from local_endpoint.store import StoreUnavailable
from local_endpoint.waiting import hangup

__all__ = ["worker_environment", "worker_router"]

_MOST_JOBS = 1000
_NAME_LENGTH = 200
# After an error the SDK asks again at once, thousands of times a second.
_ERROR_PAUSE_S = 1


def worker_environment(config: Config, base_url: str, worker_id: str, gpu: str) -> dict[str, str]:
    """All that a worker needs to know; `base_url` is how it reaches this endpoint."""
    url = f"{base_url}/v2/{config.endpoint_id}"
    query = f"?gpu={gpu}"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID{query}",
        "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID{query}",
        "RUNPOD_PING_INTERVAL": str(max(1000, int(config.ping_interval_s * 1000))),
        "RUNPOD_AI_API_KEY": config.worker_key,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_ENDPOINT_ID": config.endpoint_id,
        "RUNPOD_LOG_LEVEL": "INFO",
    }


def worker_router(core: Core) -> APIRouter:
    """All routes that workers use. They are no part of the public API, nor of its document."""
    api = APIRouter(include_in_schema=False)
    config = core.config

    async def enter(request: Request) -> tuple[str, str | None]:
        """The worker's id and GPU. Raises `ApiError` 401 or 404."""
        given = request.headers.get("authorization", "")
        keys = (given.encode(), bearer_key(given))
        if not given or not any(hmac.compare_digest(config.worker_key.encode(), key) for key in keys):
            await asyncio.sleep(_ERROR_PAUSE_S)
            raise ApiError(401, "wrong worker key: RUNPOD_AI_API_KEY must be the one this endpoint printed")
        if request.path_params["endpoint_id"] != config.endpoint_id:
            await asyncio.sleep(_ERROR_PAUSE_S)
            raise ApiError(404, "no such endpoint")
        gpu = request.query_params.get("gpu")
        return request.path_params["worker_id"][:_NAME_LENGTH], gpu and gpu[:_NAME_LENGTH]

    async def take(request: Request, most: int) -> list[bytes]:
        worker_id, gpu = await enter(request)
        idle = request.query_params.get("job_in_progress") == "0"
        async with hangup(request) as gone:
            try:
                taken = await core.take(worker_id, gpu, most=most, idle=idle, gone=gone)
            except (StoreUnavailable, sqlite3.Error):
                await asyncio.sleep(_ERROR_PAUSE_S)
                raise
        return [taken_json(item) for item in taken]

    @api.get("/job-take/{worker_id}")
    async def job_take(request: Request) -> Response:
        jobs = await take(request, 1)
        return _raw(jobs[0]) if jobs else Response(status_code=204)

    @api.get("/job-take-batch/{worker_id}")
    async def job_take_batch(request: Request) -> Response:
        size = request.query_params.get("batch_size", "1")
        if not (size.isascii() and size.isdigit() and 0 < int(size[:9]) <= _MOST_JOBS):
            raise ApiError(400, f"batch_size must be between 1 and {_MOST_JOBS}")
        jobs = await take(request, int(size))
        return _raw(b"[" + b",".join(jobs) + b"]") if jobs else Response(status_code=204)

    @api.get("/job-stop/{worker_id}")
    async def job_stop(request: Request) -> Response:
        worker_id, gpu = await enter(request)
        async with hangup(request) as gone:
            stops = await core.stops(worker_id, gpu, gone)
        return _raw(json.dumps({"jobsToStop": stops}).encode()) if stops else Response(status_code=204)

    @api.get("/ping/{worker_id}")
    async def ping(request: Request) -> Response:
        worker_id, gpu = await enter(request)
        job_ids = [job_id for job_id in request.query_params.get("job_id", "").split(",") if job_id]
        await core.ping(worker_id, gpu, job_ids)
        return Response(status_code=200)

    @api.post("/job-done/{worker_id}/{job_id}")
    async def job_done(request: Request) -> Response:
        worker_id, gpu = await enter(request)
        job_id = request.path_params["job_id"]
        try:
            post, output = await _read_post(request, _result_limit(job_id, config), config)
        except ApiError as error:
            if error.status not in (400, 413):
                raise
            reason = f"the worker's result was refused: {error.message}"
            return await _unless_ignored(
                core.finish(worker_id, gpu, job_id, output=None, error=reason), error
            )
        if post.get("status") == "IN_PROGRESS":
            return await _unless_ignored(core.progress(worker_id, gpu, job_id, output or b"null"))
        if post.get("stopPod"):
            core.retire(worker_id)
        return await _unless_ignored(core.finish(worker_id, gpu, job_id, output=output, error=_error(post)))

    @api.post("/job-stream/{worker_id}/{job_id}")
    async def job_stream(request: Request) -> Response:
        worker_id, gpu = await enter(request)
        _, output = await _read_post(request, config.chunk_limit_bytes, config)
        job_id = request.path_params["job_id"]
        return await _unless_ignored(core.add_chunk(worker_id, gpu, job_id, output or b"null"))

    return api


def _result_limit(job_id: str, config: Config) -> int:
    """Bytes of a job's result, progress included, that are taken."""
    if config.strict and not job_id.startswith("sync-"):
        return config.run_result_limit_bytes
    return config.result_limit_bytes


async def _read_post(
    request: Request, limit_bytes: int, config: Config
) -> tuple[dict[str, Any], bytes | None]:
    """A worker's post, and its `output` as JSON text."""
    body = await read_body(request, limit_bytes=limit_bytes, timeout_s=config.request_timeout_s)
    post = parse_json(body)
    if not isinstance(post, dict):
        raise ApiError(400, "the body must be a JSON object")
    return post, dump_json(post["output"]) if "output" in post else None


def _error(post: dict[str, Any]) -> str | None:
    """A result's error. Anything but a string is an SDK user's slip; it still says that the job failed."""
    error = post.get("error")
    if not error:
        return None
    return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)


async def _unless_ignored(done: Any, refused: ApiError | None = None) -> Response:
    """Await a worker's post and answer it; `refused` is the answer when its body could not be used."""
    try:
        await done
    except NotAllowed as reason:
        return _raw(json.dumps({"ignored": str(reason)}).encode())
    if refused is not None:
        raise refused
    return _raw(b"{}")


def _raw(body: bytes) -> Response:
    return Response(body, media_type="application/json")
