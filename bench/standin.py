"""A small stand-in for the platform's side of the queue: just what the SDK's worker loop speaks.

Long-polled job-take and job-stop, job-done, ping. It remembers everything that was posted, in order.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

POLL_S = 30.0


@dataclass(frozen=True)
class Body:
    """What a poll is answered with in place of a job, as it is."""

    data: bytes
    content_type: str = "application/json"
    status: int = 200


@dataclass
class Platform:
    """One endpoint with one worker.

    Attributes:
        queue: jobs not yet taken.
        posts: what the worker posted: (job id, body), in order of arrival.
        posted_at: when each of `posts` arrived, by `time.perf_counter()`.
        results: job id → its final body.
        taken: ids of the jobs that were handed out, in order.
        parked: polls for jobs that are open right now.
        pings: of each ping, the jobs it named.
        reports: the queries of pings that reported the worker unhealthy.
        polled_at: when each poll for jobs began, by `time.perf_counter()`.
        unhealthy: whether the worker reported that it cannot work.
        fail_posts: how many of the next results to answer with 500.
    """

    port: int = 0
    queue: "asyncio.Queue[dict[str, Any] | Body]" = field(default_factory=asyncio.Queue)
    stops: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    posted_at: list[float] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    pings: list[str | None] = field(default_factory=list)
    reports: list[dict[str, str]] = field(default_factory=list)
    polled_at: list[float] = field(default_factory=list)
    parked: int = 0
    unhealthy: bool = False
    fail_posts: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def submit(self, job_id: str, **input_: Any) -> None:
        self.queue.put_nowait({"id": job_id, "input": input_})

    def submit_job(self, job: dict[str, Any]) -> None:
        self.queue.put_nowait(job)

    def submit_body(self, body: Body) -> None:
        self.queue.put_nowait(body)

    def stop(self, job_id: str) -> None:
        self.stops.put_nowait(job_id)

    async def until(self, condition: Any, timeout_s: float = 240.0) -> None:
        """Wait until `condition()` holds; it is looked at after every request.

        Raises:
            TimeoutError: it never did.
        """
        async with self._changed, asyncio.timeout(timeout_s):
            await self._changed.wait_for(condition)

    async def result(self, job_id: str, timeout_s: float = 240.0) -> dict[str, Any]:
        await self.until(lambda: job_id in self.results, timeout_s)
        return self.results[job_id]

    def environment(self) -> dict[str, str]:
        """What the platform sets for a worker."""
        base = f"http://127.0.0.1:{self.port}"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_ENDPOINT_ID": "endpoint-1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _poll(self, request: web.Request, queue: "asyncio.Queue[Any]") -> Any:
        """The next item, unless the caller hangs up or the poll's time is over."""
        try:
            async with asyncio.timeout(POLL_S):
                return await queue.get()
        except TimeoutError:
            return None

    async def take(self, request: web.Request) -> web.Response:
        most = int(request.query.get("batch_size", 1))
        self.polled_at.append(time.perf_counter())
        self.parked += 1
        await self._notify()
        try:
            job = await self._poll(request, self.queue)
        finally:
            self.parked -= 1
        if job is None:
            return web.Response(status=204)
        if isinstance(job, Body):
            return web.Response(body=job.data, status=job.status, headers={"Content-Type": job.content_type})
        jobs = [job]
        while len(jobs) < most and not self.queue.empty():
            if isinstance(other := self.queue.get_nowait(), Body):
                self.queue.put_nowait(other)
                break
            jobs.append(other)
        self.taken += [job["id"] for job in jobs]
        await self._notify()
        return web.json_response(jobs if "job-take-batch" in request.path else job)

    async def stop_signals(self, request: web.Request) -> web.Response:
        job_id = await self._poll(request, self.stops)
        return web.Response(status=204) if job_id is None else web.json_response({"jobsToStop": [job_id]})

    async def done(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        job_id = request.match_info["job"]
        if self.fail_posts > 0 and body.get("status") != "IN_PROGRESS":
            self.fail_posts -= 1
            return web.Response(status=500)
        self.posts.append((job_id, body))
        self.posted_at.append(time.perf_counter())
        if body.get("status") != "IN_PROGRESS":
            self.results[job_id] = body
        await self._notify()
        return web.Response(text="ok")

    async def ping(self, request: web.Request) -> web.Response:
        if request.query.get("status") == "unhealthy":
            self.unhealthy = True
            self.reports.append(dict(request.query))
        self.pings.append(request.query.get("job_id"))
        await self._notify()
        return web.Response(text="ok")


@asynccontextmanager
async def platform(*middlewares: Any) -> AsyncIterator[Platform]:
    """A stand-in listening on loopback.

    Args:
        middlewares: aiohttp's; what a platform may do wrong (tests/hostile).
    """
    standin = Platform()
    app = web.Application(client_max_size=2**26, middlewares=middlewares)
    app.router.add_get("/job-take/{worker}", standin.take)
    app.router.add_get("/job-take-batch/{worker}", standin.take)
    app.router.add_get("/job-stop/{worker}", standin.stop_signals)
    app.router.add_post("/job-done/{worker}/{job}", standin.done)
    app.router.add_get("/ping/{worker}", standin.ping)
    # A poll whose caller hung up must not take a job with it.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    standin.port = runner.addresses[0][1]
    try:
        yield standin
    finally:
        await runner.cleanup()
