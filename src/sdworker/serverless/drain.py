"""SIGTERM: take nothing new, finish what was taken, lose nothing.

The SDK's `JobScaler` only sets a flag. Its `run_jobs` leaves once no job is queued, but the long-poll that
`get_jobs` has parked at the platform goes on and may still accept a job, which then never runs; and the process
stays until both of its long-polls return, up to 90 s. `DrainingJobScaler` mends that in one place:

- no new poll is begun after the signal (the SDK sees to that itself);
- the parked poll stays open while jobs are drained, and a job it brings is run;
- when nothing is left to do, both polls are closed and the process ends.

It leans on `JobScaler`'s insides, so `install` refuses a version whose insides are not the ones it was written
for: see `_WRITTEN_FOR`.
"""

import asyncio
import hashlib
import inspect
from typing import Any

from runpod.http_client import AsyncClientSession
from runpod.serverless.modules import rp_scale

__all__ = ["DrainingJobScaler", "SdkChanged", "install"]

# sha256 of the source of what DrainingJobScaler relies on, in runpod 1.12.0.
_WRITTEN_FOR = "b660b2d087250a9915373c373b427e81bd762837ca5ffcf943e23db00a6bd934"
_LAST_MOMENT_S = 0.2
"""A response whose bytes are arriving is awaited this long before its poll is closed."""

_RELIED_ON = (
    "__init__",
    "run",
    "is_alive",
    "kill_worker",
    "get_jobs",
    "run_jobs",
    "handle_job",
    "monitor_stop_signals",
)


class SdkChanged(RuntimeError):
    """The installed runpod is not the one this worker's shutdown was written for."""


def fingerprint() -> str:
    """sha256 of the source of the parts of `JobScaler` that are relied on."""
    sources = (inspect.getsource(getattr(rp_scale.JobScaler, name)) for name in _RELIED_ON)
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def install() -> None:
    """Make the SDK's worker loop use `DrainingJobScaler`.

    Raises:
        SdkChanged: `JobScaler` is not the one this was written for.
    """
    if fingerprint() != _WRITTEN_FOR:
        raise SdkChanged(
            "runpod's JobScaler is not the one this worker's shutdown was written for (runpod 1.12.0); install "
            "that version, or read src/sdworker/serverless/drain.py against the new one and run its tests"
        )
    rp_scale.JobScaler = DrainingJobScaler


class DrainingJobScaler(rp_scale.JobScaler):
    """`JobScaler` whose shutdown loses no job. Only `run` and the parked poll differ."""

    jobs_fetcher: Any

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._fetch = self.jobs_fetcher
        self._parked: asyncio.Task[Any] | None = None
        self.jobs_fetcher = self._fetch_apart

    async def _fetch_apart(self, session: Any, jobs_needed: int) -> Any:
        """The SDK's fetch in a task of its own, so that a poll can outlive the loop that awaits it."""
        poll = self._parked = asyncio.create_task(self._fetch(session, jobs_needed))
        try:
            jobs = await asyncio.shield(poll)
        except asyncio.CancelledError:
            if self.is_alive():  # the SDK's own limit on a poll, not the end: close it
                poll.cancel()
            raise
        self._parked = None  # its jobs are in good hands
        return jobs

    async def run(self) -> None:
        """Serve until told to stop, then until every job that was taken has been answered."""
        async with AsyncClientSession() as session:
            taking = asyncio.create_task(self.get_jobs(session))
            stopping = asyncio.create_task(self.monitor_stop_signals(session))
            await self._run_queued(session)
            await _end(taking)
            await self._close_parked_poll()
            await self._run_queued(session)
            await _end(stopping)

    async def _run_queued(self, session: Any) -> None:
        """Run jobs until told to stop and none is queued; the parked poll may bring some while others drain."""
        await self.run_jobs(session)
        while not self.jobs_queue.empty():
            await self.run_jobs(session)

    async def _close_parked_poll(self) -> None:
        """Close the poll that `get_jobs` left; queue what it brought in its last moment."""
        if self._parked is None:
            return
        await asyncio.wait([self._parked], timeout=_LAST_MOMENT_S)
        self._parked.cancel()
        outcome: Any = (await asyncio.gather(self._parked, return_exceptions=True))[0]
        for job in outcome if isinstance(outcome, list) else []:
            await self.jobs_queue.put(job)
            self.job_progress.add(job)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
