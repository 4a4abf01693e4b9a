"""Holding requests open until something happens, the caller hangs up, or time is over."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

__all__ = ["Bells", "Takers", "hangup"]


@asynccontextmanager
async def hangup(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done as soon as the caller has closed the connection. The body must be read before."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not gone.done():
            gone.set_result(None)

    task = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        task.cancel()


async def _wait(bell: asyncio.Future[None], gone: asyncio.Future[None], timeout_s: float) -> None:
    if timeout_s > 0 and not gone.done():
        await asyncio.wait({bell, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class Takers:
    """Workers waiting for a job, first come first served: one new job wakes one of them."""

    def __init__(self) -> None:
        self._parked: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._parked)

    def wake(self, count: int) -> None:
        """Let the first `count` of them look for a job."""
        while count > 0 and self._parked:
            bell = self._parked.popleft()
            if not bell.done():
                bell.set_result(None)
                count -= 1

    async def park(self, gone: asyncio.Future[None], timeout_s: float) -> bool:
        """Wait one's turn; True if it came."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked.append(bell)
        try:
            await _wait(bell, gone, timeout_s)
        finally:
            woken = bell.done()
            if not woken:
                bell.cancel()
                self._parked.remove(bell)
            elif gone.done():
                self.wake(1)  # whoever was woken has left: the next one shall look
        return woken and not gone.done()


class Bells:
    """Callers waiting for news of a job."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def ring(self, job_id: str) -> None:
        """There is news of this job."""
        for bell in self._waiting.get(job_id, ()):
            if not bell.done():
                bell.set_result(None)

    def ring_all(self) -> None:
        """Let everyone look again."""
        for job_id in list(self._waiting):
            self.ring(job_id)

    async def wait(self, job_id: str, gone: asyncio.Future[None], timeout_s: float) -> None:
        """Return at the next news, hang-up, or when time is over."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job_id].add(bell)
        try:
            await _wait(bell, gone, timeout_s)
        finally:
            bell.cancel()
            self._waiting[job_id].discard(bell)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
