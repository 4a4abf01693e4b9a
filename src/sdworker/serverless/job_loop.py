"""The job loop: takes jobs, has them drawn, delivers their results, until it is told to end.

What is wrong with the one of runpod 1.12.0:

- With its slots full it sleeps a second and a finishing job does not wake it; a job that was taken waits up to a
  tenth of a second before it starts; a platform that answers at once is asked thousands of times a second.
- A job that its structures cannot hold (an `id` that is no text, a key `self`) ends the worker and all its jobs.
- A result is offered three times and then forgotten.
- SIGTERM sets a flag. The long-poll that is parked at the platform may still accept a job, which then never runs;
  and the process stays until both of its long-polls return, up to 90 s.

`JobLoop` takes a job the moment a slot is free and starts it the moment it arrives (`jobs.py` judges it first). A
job has a slot while it is drawn, not while its result is on its way (`outbox.py`). Told to end, it begins no new
poll; the parked one stays open while jobs are drawn, and a job that it brings is run; then it is closed. An engine
that can draw no more sends SIGTERM itself; then the platform is told so, and the process ends with 1.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

import aiohttp
from runpod import RunPodLogger

from sdworker.process import redaction
from sdworker.serverless import wire
from sdworker.serverless.heartbeat import Heartbeat
from sdworker.serverless.jobs import NotJobs, Taken, read_jobs
from sdworker.serverless.outbox import Outbox, encode
from sdworker.serverless.pause import GrowingPause
from sdworker.serverless.progress import Progress

__all__ = ["JobLoop", "Serves"]

log = logging.getLogger(__name__)
# Its lines carry the job's id where the platform's console looks for it.
_platform_log = RunPodLogger()

# A poll that was held at least so long was a long-poll: the next may follow at once.
_HELD_S = 0.25
# After an answer that came at once and brought nothing; after one that was an error or nonsense; after 429.
_EMPTY_PAUSE_S = (0.05, 2.0)
_FAILED_PAUSE_S = (0.5, 5.0)
_TOO_MANY_PAUSE_S = (5.0, 30.0)
# Told to end, a poll is given so long when nothing, or when an answer, is on its way.
_LAST_MOMENT_S = 0.2
_ARRIVING_S = 30.0
# Bodies from here on are read in a thread.
_LARGE_BYTES = 1_000_000
_LONGEST_EXECUTION_S = 7 * 24 * 3600.0


class Serves(Protocol):
    """What the loop needs of the worker."""

    @property
    def lost(self) -> str | None:
        """Why nothing can be drawn any more; None: all is well."""

    def concurrency(self, current: int) -> int:
        """Jobs to draw at once."""

    def progress(self, job_id: str, session: aiohttp.ClientSession) -> Progress:
        """Posts the job's progress while it is open."""

    async def answer(self, job: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """The body of the job's result: `output` or `error`. Raises nothing but cancellation."""


class JobLoop:
    """Serves one endpoint; `run` it once."""

    def __init__(
        self,
        worker: Serves,
        *,
        addresses: wire.Addresses,
        session: aiohttp.ClientSession,
        heartbeat: Heartbeat | None,
        outbox: Outbox,
        keep_s: float,
    ) -> None:
        """
        Args:
            keep_s: how long a result is offered whose job names no `executionTimeout`, from when it was taken.
        """
        self._worker = worker
        self._addresses = addresses
        self._session = session
        self._heartbeat = heartbeat
        self._outbox = outbox
        self._keep_s = keep_s
        self._concurrency = 1
        self._waiting: deque[dict[str, Any]] = deque()  # taken beyond the slots there are
        self._tasks: dict[str, asyncio.Task[None]] = {}  # drawn, or their result on its way
        self._drawing: set[str] = set()
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Take no more jobs; `run` returns when those that were taken are answered."""
        self._ending.set()
        self._outbox.end()
        self._changed.set()

    async def run(self) -> int:
        """Serve until told to end, then until every job that was taken is answered. The exit code is returned."""
        stops = None
        if self._addresses.job_stop is None:
            log.warning("jobs cannot be stopped: RUNPOD_WEBHOOK_GET_JOB has no /job-take/ in it")
        else:
            stops = asyncio.create_task(self._watch_stops(self._addresses.job_stop))
        if self._heartbeat is not None:
            self._heartbeat.start()
        await self._take_jobs()
        while self._tasks or self._waiting:
            await self._change()
        if stops is not None:
            stops.cancel()
            await asyncio.wait([stops])
        if self._worker.lost is not None:
            if self._heartbeat is not None:
                await self._heartbeat.report_unhealthy("engine", self._worker.lost)
            return 1
        return 1 if self._outbox.lost_at_end else 0

    # Taking jobs.

    async def _take_jobs(self) -> None:
        empty, failed, too_many = (
            GrowingPause(*pause) for pause in (_EMPTY_PAUSE_S, _FAILED_PAUSE_S, _TOO_MANY_PAUSE_S)
        )
        while (slots := await self._free_slots()) > 0:
            began = time.monotonic()
            try:
                answer = await self._poll(slots)
                if answer is None:
                    return
                news = await self._start_jobs(answer)
            except Exception as error:  # the platform may answer anything; the loop goes on whatever it is
                log.error("taking jobs failed: %s", _named(error))
                await self._sleep(failed.next_s())
                continue
            if answer.status == 429:
                await self._sleep(max(too_many.next_s(), answer.retry_after_s or 0))
                continue
            if answer.status not in (200, 204, 400):
                log.error("taking jobs failed: HTTP %d", answer.status)
                await self._sleep(max(failed.next_s(), answer.retry_after_s or 0))
                continue
            if failed.is_growing:
                self._outbox.retry_now()  # the platform is back
            failed.reset()
            too_many.reset()
            if news or time.monotonic() - began >= _HELD_S:
                empty.reset()
            else:
                await self._sleep(empty.next_s())

    async def _free_slots(self) -> int:
        """How many jobs can be taken, waiting for room if need be; 0 once told to end."""
        while not self._ending.is_set():
            self._concurrency = max(1, self._worker.concurrency(self._concurrency))
            self._start_waiting()
            slots = self._concurrency - len(self._drawing)
            if slots > 0 and not self._waiting and not self._outbox.is_full:
                return slots
            await self._change()
        return 0

    async def _poll(self, slots: int) -> wire.Answer | None:
        """One long-poll for jobs; closed early only when told to end and nothing is drawn: None."""
        take = wire.Take(self._session, self._addresses)
        poll = asyncio.create_task(take.jobs(slots, busy=bool(self._tasks or self._waiting)))
        drained = asyncio.create_task(self._drained())
        await asyncio.wait({poll, drained}, return_when=asyncio.FIRST_COMPLETED)
        if drained.done():
            await asyncio.wait({poll}, timeout=_LAST_MOMENT_S)
            if take.arriving:
                await asyncio.wait({poll}, timeout=_ARRIVING_S)
        drained.cancel()
        poll.cancel()  # does nothing to one that is done
        await asyncio.wait({poll, drained})
        return None if poll.cancelled() else poll.result()

    async def _start_jobs(self, answer: wire.Answer) -> bool:
        """Start what the platform's answer holds, and answer what cannot be run. Whether there was any.

        Raises:
            NotJobs
        """
        if answer.status != 200 or not answer.body:
            return False
        try:
            if len(answer.body) < _LARGE_BYTES:
                taken = read_jobs(answer.body)
            else:
                taken = await asyncio.to_thread(read_jobs, answer.body)
        except NotJobs as error:
            raise NotJobs(f"the platform's answer is {error} ({answer.content_type})") from None
        return self._accept(taken)

    def _accept(self, taken: Taken) -> bool:
        for reason in taken.dropped:
            log.error("the platform sent %s; it cannot be answered", reason)
        if taken.dropped and not taken:
            raise NotJobs("nothing of it could be answered")
        known = self._tasks.keys() | {job["id"] for job in self._waiting}
        news = False
        for job_id, reason in taken.refused:
            if job_id not in known:
                log.warning("job %s is refused: %s", ascii(job_id[:60]), reason)
                self._begin(
                    job_id, self._deliver(job_id, encode({"error": reason}), time.monotonic() + self._keep_s)
                )
                known.add(job_id)
                news = True
        for job in taken.jobs:
            if job["id"] in known:
                log.warning("job %s was sent again while this worker has it", job["id"])
                self._outbox.retry_now()
                continue
            known.add(job["id"])
            self._waiting.append(job)
            news = True
        self._start_waiting()
        self._tell_heartbeat()
        return news

    def _start_waiting(self) -> None:
        while self._waiting and len(self._drawing) < self._concurrency:
            job = self._waiting.popleft()
            self._drawing.add(job["id"])
            self._begin(job["id"], self._serve(job))

    # One job.

    def _begin(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"job {job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda done: self._done(job_id, done))

    def _done(self, job_id: str, task: "asyncio.Task[None]") -> None:
        self._drawing.discard(job_id)
        self._outbox.release(job_id)
        self._tasks.pop(job_id, None)
        if task.cancelled():
            _platform_log.info("Stopped.", job_id)
        elif task.exception() is not None:
            log.error("job %s: its answer was lost", job_id, exc_info=task.exception())
        self._tell_heartbeat()
        self._start_waiting()
        self._changed.set()

    async def _serve(self, job: dict[str, Any]) -> None:
        """Draw the job, then deliver its result; its slot is free in between."""
        job_id: str = job["id"]
        until = time.monotonic() + self._time_of(job)
        _keep_out_of_log(job)
        _platform_log.info("Started.", job_id)
        async with self._worker.progress(job_id, self._session) as progress:
            body = encode(await self._answer(job, progress))
            job.clear()  # its pictures need not be kept with its result
            self._outbox.hold(job_id, len(body))
            self._drawing.discard(job_id)
            self._changed.set()
        await self._deliver(job_id, body, until)

    async def _answer(self, job: dict[str, Any], progress: Progress) -> dict[str, Any]:
        try:
            return await self._worker.answer(job, progress)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.error("job %s was cancelled by something inside the worker", job["id"])
        except BaseException:  # an exit or an interrupt raised in a thread is the job's failure, not ours
            log.exception("job %s failed", job["id"])
        return {"error": f"the worker failed on this job; its log has the cause, under job {job['id']}"}

    async def _deliver(self, job_id: str, body: bytes, until: float) -> None:
        self._outbox.hold(job_id, len(body))
        if await self._outbox.deliver(job_id, body, until=until):
            _platform_log.info("Finished.", job_id)

    def _time_of(self, job: dict[str, Any]) -> float:
        """Seconds from now in which the platform wants the job's result."""
        policy = job.get("policy")
        timeout_ms = policy.get("executionTimeout") if isinstance(policy, dict) else None
        if isinstance(timeout_ms, (int, float)) and not isinstance(timeout_ms, bool) and timeout_ms > 0:
            return min(timeout_ms / 1000, _LONGEST_EXECUTION_S)
        return self._keep_s

    # Stopping jobs, and ending.

    async def _watch_stops(self, url: str) -> None:
        """Stop the jobs that the platform names; as long as there may be any."""
        empty, failed = GrowingPause(*_EMPTY_PAUSE_S), GrowingPause(*_FAILED_PAUSE_S)
        while True:
            began = time.monotonic()
            try:
                answer = await wire.stops(self._session, url)
                if answer.status not in (200, 204, 400):
                    raise NotJobs(f"HTTP {answer.status}")
                stopped = self._stop_jobs(_ids_to_stop(answer.body))
            except Exception as error:
                log.debug("asking for jobs to stop failed: %s", _named(error))
                await asyncio.sleep(failed.next_s())
                continue
            failed.reset()
            if stopped or time.monotonic() - began >= _HELD_S:
                empty.reset()
            else:
                await asyncio.sleep(empty.next_s())

    def _stop_jobs(self, job_ids: Iterable[str]) -> bool:
        """Stop these; those that are not here, or stopped already, are left alone. Whether any was."""
        stopped = False
        for job_id in set(job_ids):
            for job in [job for job in self._waiting if job["id"] == job_id]:
                self._waiting.remove(job)
                _platform_log.info("Stopped before it began.", job_id)
                stopped = True
            task = self._tasks.get(job_id)
            if task is not None and not task.cancelling():
                task.cancel()
                stopped = True
        return stopped

    async def _drained(self) -> None:
        """Returns once told to end and no job is drawn."""
        while not self._ending.is_set() or self._drawing or self._waiting:
            await self._change()

    async def _sleep(self, seconds: float) -> None:
        """Until the time is over or the worker is told to end."""
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except TimeoutError:
            return

    async def _change(self) -> None:
        """Returns when a slot or room for a result may have become free, or the worker is told to end."""
        self._changed.clear()
        await self._changed.wait()

    def _tell_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.tell([*self._tasks, *(job["id"] for job in self._waiting)])


def _ids_to_stop(body: bytes) -> list[str]:
    """Raises ValueError, RecursionError: the body is no JSON."""
    value = json.loads(body) if body.strip() else None
    named = value.get("jobsToStop") if isinstance(value, dict) else None
    return [job_id for job_id in named if isinstance(job_id, str)] if isinstance(named, list) else []


def _keep_out_of_log(job: dict[str, Any]) -> None:
    """The keys that a job brings for its own bucket are known to nobody else."""
    config = job.get("s3Config")
    if isinstance(config, dict):
        for name in ("accessId", "accessSecret"):
            redaction.remember(config.get(name))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
