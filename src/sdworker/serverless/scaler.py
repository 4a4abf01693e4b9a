"""The SDK's job loop, mended: it wakes when something happens, and SIGTERM loses nothing.

What is wrong with `JobScaler` in runpod 1.12.0:

- With its slots full it sleeps a second and a finishing job does not wake it; a job that was taken waits up to a
  tenth of a second before it starts; a job-take that fails is tried again at once, without end.
- SIGTERM sets a flag. `run_jobs` leaves once no job is queued, but the long-poll that `get_jobs` has parked at the
  platform may still accept a job, which then never runs; and the process stays until both of its long-polls
  return, up to 90 s.

`EventDrivenJobScaler` takes a job the moment a slot is free and starts it the moment it arrives. Told to stop, it
begins no new poll; the parked one stays open while jobs are finished, and a job that it brings is run; when
nothing is left to do it is closed and the process ends. Fetching, handling, stopping and pinging stay the SDK's.

It leans on `JobScaler`'s insides, so `install` refuses a version whose insides are not the ones it was written
for: see `_WRITTEN_FOR`.
"""

import asyncio
import contextlib
import hashlib
import inspect
import logging
import signal
from typing import Any

from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_scale

__all__ = ["EventDrivenJobScaler", "SdkChanged", "fingerprint", "install"]

log = logging.getLogger(__name__)

# sha256 of the source of what EventDrivenJobScaler relies on, in runpod 1.12.0.
_WRITTEN_FOR = "d4d55a3c0dc7c43cfa09af3dadca1267144984e066355dac4f050ce537fb4d77"
_RELIED_ON = (
    "__init__",
    "set_scale",
    "start",
    "handle_shutdown",
    "run",
    "is_alive",
    "kill_worker",
    "handle_job",
    "monitor_stop_signals",
    "stop_job",
)

_TOO_MANY_REQUESTS_PAUSE_S = 5.0
_FAILED_POLL_PAUSE_S = 1.0
# A job whose bytes are arriving is awaited this long before its poll is closed.
_LAST_MOMENT_S = 0.2


class SdkChanged(RuntimeError):
    """The installed runpod is not the one this worker's job loop was written for."""


def fingerprint() -> str:
    """sha256 of the source of the parts of `JobScaler` that are relied on."""
    sources = (inspect.getsource(getattr(rp_scale.JobScaler, name)) for name in _RELIED_ON)
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def install() -> None:
    """Make the SDK serve with `EventDrivenJobScaler`.

    Raises:
        SdkChanged: `JobScaler` is not the one this was written for.
    """
    if rp_scale.JobScaler is EventDrivenJobScaler:
        return
    if fingerprint() != _WRITTEN_FOR:
        raise SdkChanged(
            "runpod's JobScaler is not the one this worker's job loop was written for (runpod 1.12.0); install "
            "that version, or read src/sdworker/serverless/scaler.py against the new one and run its tests"
        )
    rp_scale.JobScaler = EventDrivenJobScaler


class EventDrivenJobScaler(rp_scale.JobScaler):
    """`JobScaler` with the loops that take and start jobs driven by events."""

    current_concurrency: int
    jobs_queue: Any
    jobs_fetcher: Any
    jobs_tasks: dict[str, "asyncio.Task[None]"]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def kill_worker(self) -> None:
        """Stop taking jobs; `run` returns when those that were taken are done."""
        super().kill_worker()
        self._changed.set()

    async def run(self) -> None:
        """Serve until told to stop, then until every job that was taken has been answered."""
        self._wake_on_signals()
        await self.set_scale()
        async with AsyncClientSession() as session:
            stopping = asyncio.create_task(self.monitor_stop_signals(session))
            while self.is_alive():
                slots = await self._free_slots()
                for job in await self._poll(session, slots) if slots else ():
                    self._start_job(session, job)
            await asyncio.gather(*self._running, return_exceptions=True)
            stopping.cancel()
            await asyncio.wait([stopping])

    def _wake_on_signals(self) -> None:
        """A handler set with `signal.signal`, as the SDK does, leaves a sleeping event loop asleep."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                asyncio.get_running_loop().add_signal_handler(number, self.handle_shutdown, number, None)

    async def _free_slots(self) -> int:
        """How many jobs can be taken, waiting for one to finish if need be; 0 once told to stop."""
        # What the queue may hold, the SDK's reason to stop fetching when this changes, is no limit here.
        self.current_concurrency = self.concurrency_modifier(self.current_concurrency)
        while self.is_alive() and len(self._running) >= self.current_concurrency:
            await self._change()
        return self.current_concurrency - len(self._running) if self.is_alive() else 0

    async def _poll(self, session: Any, slots: int) -> list[dict[str, Any]]:
        """One long-poll for jobs; closed early only when told to stop and all jobs are done."""
        poll = asyncio.create_task(self.jobs_fetcher(session, slots))
        drained = asyncio.create_task(self._drained())
        await asyncio.wait(
            {poll, drained}, timeout=self.jobs_fetcher_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if drained.done():
            await asyncio.wait({poll}, timeout=_LAST_MOMENT_S)
        drained.cancel()
        poll.cancel()  # does nothing to one that is done
        await asyncio.wait({poll})
        if poll.cancelled():
            return []
        error = poll.exception()
        if error is not None:
            await self._pause_after(error)
            return []
        return poll.result() or []

    async def _pause_after(self, error: BaseException) -> None:
        if isinstance(error, TooManyRequests):
            await asyncio.sleep(_TOO_MANY_REQUESTS_PAUSE_S)
            return
        log.error("taking jobs failed: %s: %s", type(error).__name__, error)
        await asyncio.sleep(_FAILED_POLL_PAUSE_S)

    def _start_job(self, session: Any, job: dict[str, Any]) -> None:
        if not isinstance(job, dict) or "id" not in job:
            log.error("the platform sent a job without an id; it cannot be answered")
            return
        # Through the queue and out again: handle_job will call its task_done.
        self.jobs_queue.put_nowait(job)
        self.jobs_queue.get_nowait()
        self.job_progress.add(job)
        task = asyncio.create_task(self.handle_job(session, job))
        self.jobs_tasks[job["id"]] = task
        self._running.add(task)
        task.add_done_callback(self._job_done)

    def _job_done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a job's answer was lost", exc_info=task.exception())

    async def _drained(self) -> None:
        """Returns once told to stop and no job is running."""
        while self.is_alive() or self._running:
            await self._change()

    async def _change(self) -> None:
        """Returns when a job is done or the worker is told to stop."""
        self._changed.clear()
        await self._changed.wait()
