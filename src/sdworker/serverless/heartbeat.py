"""Pings: they tell the platform that this worker lives and which jobs it has.

The SDK pings from a process of its own, forked from one with threads. It goes on when the worker is killed, is not
missed when it is killed itself, and SIGTERM to the group ends it while jobs are still being finished. Here it is a
thread of the worker: it ends exactly when the worker does. It has an event loop of its own, so neither a busy loop
nor a platform that does not answer holds it up.
"""

import asyncio
import logging
import threading
from collections.abc import Iterable

import aiohttp
from runpod.http_client import AsyncClientSession
from runpod.version import __version__ as runpod_version

__all__ = ["Heartbeat"]

log = logging.getLogger(__name__)

# One ping may take so long; the next is sent all the same, soon after it was given up.
_LEAST_TIMEOUT_S = 2.0
_MOST_TIMEOUT_S = 10.0
_AGAIN_AFTER_FAILURE_S = 2.0
_UNHEALTHY_TIMEOUT_S = 5.0
_MOST_IDS_CHARACTERS = 7500  # servers refuse an address that is much longer
_TELL_AGAIN_AFTER = 30  # failures that follow each other


class Heartbeat:
    """Pings `url` every `interval_s` seconds while it is started."""

    def __init__(self, url: str, interval_s: float) -> None:
        self._url = url
        self._interval_s = interval_s
        self._timeout_s = min(max(interval_s, _LEAST_TIMEOUT_S), _MOST_TIMEOUT_S)
        self._ids: tuple[str, ...] = ()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    def start(self) -> None:
        """From a running event loop, which serves when the system grants no thread."""
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            log.warning("no thread for the pings, so they share the jobs' event loop: %s", error)
            self._task = asyncio.create_task(self._beat())

    def tell(self, job_ids: Iterable[str]) -> None:
        """From now on name these jobs; may be called from any thread."""
        self._ids = tuple(job_ids)

    async def report_unhealthy(self, check: str, reason: str) -> None:
        """Tell the platform, once, that this worker cannot go on; whether it hears that or not."""
        parameters = {"status": "unhealthy", "check": check, "reason": reason[:256]}
        try:
            async with AsyncClientSession() as session:
                await self._get(session, parameters, _UNHEALTHY_TIMEOUT_S)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.error("the platform could not be told that this worker is unhealthy: %s", _named(error))

    def _live(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        while True:
            try:
                async with AsyncClientSession() as session:
                    while True:
                        pause_s = await self._ping(session)
                        await asyncio.sleep(pause_s)
            except Exception:  # whatever it is: a worker without pings is taken for dead
                log.exception("pinging failed; it goes on")
                await asyncio.sleep(self._interval_s)

    async def _ping(self, session: aiohttp.ClientSession) -> float:
        """One ping. Returns after how many seconds the next is due."""
        began = asyncio.get_running_loop().time()
        ids = _list(self._ids)
        try:
            status = await self._get(session, {"job_id": ids} if ids else {}, self._timeout_s)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._tell_failure(_named(error))
            return min(self._interval_s, _AGAIN_AFTER_FAILURE_S)
        if status >= 500 or status == 429:
            self._tell_failure(f"HTTP {status}")
            return min(self._interval_s, _AGAIN_AFTER_FAILURE_S)
        self._failures = 0
        return max(0.0, self._interval_s - (asyncio.get_running_loop().time() - began))

    async def _get(self, session: aiohttp.ClientSession, parameters: dict[str, str], timeout_s: float) -> int:
        async with session.get(
            self._url,
            params={**parameters, "runpod_version": runpod_version},
            timeout=aiohttp.ClientTimeout(timeout_s),
        ) as response:
            return response.status

    def _tell_failure(self, reason: str) -> None:
        if self._failures % _TELL_AGAIN_AFTER == 0:
            log.warning("the platform does not take pings: %s", reason)
        self._failures += 1


def _list(job_ids: tuple[str, ...]) -> str:
    """Comma-separated, cut between two ids where the address would become too long."""
    text = ",".join(job_ids)
    return text if len(text) <= _MOST_IDS_CHARACTERS else text[:_MOST_IDS_CHARACTERS].rpartition(",")[0]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
