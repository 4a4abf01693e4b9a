"""What the platform may do wrong, put in front of the stand-in as an aiohttp middleware."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Faults:
    """Faults to come; with none of them the stand-in behaves.

    Attributes:
        results: job id → what its next offers are answered with: a status, "drop" (the connection breaks),
            "swallow" (it is taken, and the connection breaks before the answer), "hang".
        progress_delay_s: how long a progress post takes to be recorded.
        take, stop: answer polls for jobs, or for jobs to stop, in the stand-in's place.
        away: every connection breaks.
        offers: the statuses of offers as they came: (job id, answered with).
    """

    results: dict[str, "deque[int | str]"] = field(default_factory=dict)
    progress_delay_s: float = 0.0
    take: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    stop: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    away: bool = False
    offers: list[tuple[str, int | str]] = field(default_factory=list)
    takes: int = 0

    def of_results(self, job_id: str, *answers: int | str) -> None:
        self.results[job_id] = deque(answers)

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def faulty(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self.away:
                _break(request)
            if request.path.startswith("/job-take") and self.take is not None:
                self.takes += 1
                return await self.take(request)
            if request.path.startswith("/job-stop") and self.stop is not None:
                return await self.stop(request)
            if request.path.startswith("/job-done"):
                return await self._done(request, handler)
            return await handler(request)

        return faulty

    async def _done(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.text()
        if body.startswith('{"status": "IN_PROGRESS"'):
            if self.progress_delay_s:
                # Recorded late even where the caller has hung up, as a platform with a queue behind it would.
                late = asyncio.ensure_future(_late(self.progress_delay_s, handler, request))
                return await asyncio.shield(late)
            return await handler(request)
        job_id = request.match_info["job"]
        answers = self.results.get(job_id)
        answer: int | str = answers.popleft() if answers else 200
        self.offers.append((job_id, answer))
        if answer == "hang":
            await asyncio.sleep(3600)
        if answer == "drop":
            _break(request)
        response = await handler(request) if answer in (200, "swallow") else web.Response(status=int(answer))
        if answer == "swallow":
            _break(request)
        return response


async def _late(seconds: float, handler: Handler, request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(seconds)
    return await handler(request)


def _break(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise web.HTTPServiceUnavailable


def at_once(**answer: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An answer that does not wait: `web.Response`'s arguments."""

    async def answered(_request: web.Request) -> web.StreamResponse:
        return web.Response(**answer)

    return answered


async def endless(request: web.Request) -> web.StreamResponse:
    """A body that goes on until the caller has had enough."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'[{"id": "')
    while True:
        await response.write(b"x" * 1_000_000)
