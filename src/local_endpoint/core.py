"""The endpoint itself: what callers ask, what workers do, what time does, and who is told of it.

Every decision is one transaction of the ledger, so it is true of the disk before anyone hears of it.
Memory holds only who waits for what and which workers are alive, and may be lost at any moment.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from local_endpoint.clock import Clock
from local_endpoint.config import MB, Config
from local_endpoint.explainer import Explainer
from local_endpoint.jobs import Job, Status
from local_endpoint.ledger import Chunks, Ledger, Taken, View
from local_endpoint.simulation import Fate
from local_endpoint.store import DiskFull, Store
from local_endpoint.waiting import Bells, Takers
from local_endpoint.workers import Worker, Workers

__all__ = ["Core", "NoRoom", "Submission"]

_log = logging.getLogger(__name__)

_TICK_S = 0.25
_STALL_S = 1
_VACUUM_PAUSE_S = 2
# The SDK forgets a stop for a job that it has fetched but not begun, so it is said three times.
_STOP_PAUSES_S = (0, 0.5, 2)
_INPUT_SHOWN_BYTES = 64 * 1024
_OUTPUT_INLINE_BYTES = 256 * 1024
_ANY_SIZE = 1 << 40
# How large results are taken to be: at first a picture's size, then as those that came, the later ones more.
_RESULT_BYTES = 700_000.0
_RESULT_WEIGHT = 0.05
_WEBHOOK_TRIES_SHOWN = 100
_STREAM_BYTES = 4 * 1024 * 1024

Gone = asyncio.Future[None]


class NoRoom(Exception):
    """No more work is taken for now; the message says why, in words for the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked request body. `input` and `extras` are JSON text."""

    sync: bool
    input: bytes
    extras: bytes
    webhook: str | None
    execution_timeout_ms: int
    ttl_ms: int
    low_priority: bool


class Core:
    """One running endpoint. Use it from the event loop that it was made in.

    Methods raise `UnknownJob` and `NotAllowed` as the ledger does, and `StoreUnavailable`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(
            config.folder,
            retention_ms=int(config.retention_s * 1000),
            sync_retention_ms=int(config.sync_retention_s * 1000),
            keep_past_ttl=not config.strict,
            salvage_damaged=config.salvage,
        )
        self.clock = Clock(not_before_ms=self.store.reader.latest_ms())
        self.workers = Workers(int(config.worker_timeout_s * 1000), self.clock.now_ms)
        self.fate = Fate(config.simulation)
        self._simulation = config.simulation
        self._losing: set[asyncio.Task[None]] = set()
        self.on_retire: Callable[[str], None] = lambda worker_id: None
        """Told the id of a worker that wants to be replaced."""
        self.on_final: Callable[[], None] = lambda: None
        """Told that some job has become final."""
        self._start_ms = self.clock.now_ms()
        self._lost_after_ms = int(2.5 * config.ping_interval_s * 1000)
        self._takers = Takers()
        self._bells = Bells()
        self.webhook_tries: deque[dict[str, Any]] = deque(maxlen=_WEBHOOK_TRIES_SHOWN)
        """For the console: which webhook was sent where, and how that went."""
        self.input_schema = config.input_schema
        """For the playground; whoever starts the workers may learn it later than this."""
        self.explainer = Explainer(config.explain_command)
        self._closed = False
        self._draining = False
        self._ticked_s = self._time()
        self._vacuum_at_s: float | None = None
        self._result_bytes = _RESULT_BYTES
        self._weigh_work()
        for job in self.store.reader.held():
            if job.worker is not None:
                self.workers.expect(job.worker, job.gpu)

    def close_queue(self) -> None:
        """Hand out no more jobs, and let waiting workers go; results are still taken."""
        self._closed = True
        self._takers.wake(len(self._takers))
        for worker in self.workers:
            worker.stop_asked.set()

    def drain(self) -> None:
        """Also let every waiting caller go, with the state so far."""
        self.close_queue()
        self._draining = True
        self._bells.ring_all()

    def close(self) -> None:
        """Let go of the store. Nothing may be under way."""
        self.store.close()

    # What callers do.

    async def submit(self, request: Submission) -> Job:
        """Queue a new job.

        Raises `NoRoom` when the disk, or what may wait, is nearly full.
        """
        size = len(request.input) + len(request.extras)
        self._check_room(size)
        now_ms = self.clock.now_ms()
        job = Job(
            id=f"sync-{uuid4()}" if request.sync else str(uuid4()),
            sync=request.sync,
            low_priority=request.low_priority,
            execution_timeout_ms=request.execution_timeout_ms,
            ttl_ms=request.ttl_ms,
            created_ms=now_ms,
            queued_ms=now_ms,
        )
        await self.store.write(
            lambda ledger: ledger.submit(job, request.input, request.extras, request.webhook)
        )
        self._queued_bytes += size
        self._live_jobs += 1
        self._takers.wake(1)
        return job

    async def view(self, job_id: str, *, expired_too: bool = False) -> View:
        """The job as a status answer shows it, with its whole output."""
        now_ms = 0 if expired_too else self.clock.now_ms()

        def view(ledger: Ledger, outputs_up_to: int) -> View:
            return ledger.view(job_id, now_ms, inputs_up_to=_INPUT_SHOWN_BYTES, outputs_up_to=outputs_up_to)

        small = view(self.store.reader, _OUTPUT_INLINE_BYTES)
        if small.output_bytes <= _OUTPUT_INLINE_BYTES:
            return small
        return await self.store.read_large(lambda ledger: view(ledger, _ANY_SIZE))

    async def wait(self, job_id: str, wait_s: float, gone: Gone) -> View:
        """The job's view when it is final or, after `wait_s`, as far as it has come."""
        end_s = self._time() + wait_s
        while not self.store.reader.get(job_id, self.clock.now_ms()).final:
            left_s = end_s - self._time()
            if left_s <= 0 or gone.done() or self._draining:
                break
            await self._bells.wait(job_id, gone, left_s)
        return await self.view(job_id)

    async def stream(self, job_id: str, gone: Gone) -> Chunks:
        """What the job has streamed since the last call; waits a little for the first of it."""
        end_s = self._time() + self.config.stream_wait_s
        while not self.store.reader.has_chunks(job_id):
            job = self.store.reader.get(job_id, self.clock.now_ms())
            left_s = end_s - self._time()
            if job.final or left_s <= 0 or gone.done() or self._draining:
                return Chunks(job, [], more=False)
            await self._bells.wait(job_id, gone, left_s)
        now_ms = self.clock.now_ms()
        return await self.store.write(
            lambda ledger: ledger.pop_chunks(job_id, now_ms, max_bytes=_STREAM_BYTES)
        )

    async def cancel(self, job_id: str) -> Job:
        """Cancel a live job; a final one is returned as it is."""
        now_ms = self.clock.now_ms()

        def cancel(ledger: Ledger) -> tuple[Job, Job]:
            before = ledger.get(job_id, now_ms)
            return before, before if before.final else ledger.cancel(job_id, now_ms)

        before, job = await self.store.write(cancel)
        if not before.final:
            self._ended(job, stop=True)
        return job

    async def retry(self, job_id: str) -> Job:
        """Queue a failed job again."""
        now_ms = self.clock.now_ms()
        job = await self.store.write(lambda ledger: ledger.retry(job_id, now_ms))
        self._takers.wake(1)
        return job

    async def purge_queue(self) -> int:
        """Cancel every waiting job; returns how many there were."""
        now_ms = self.clock.now_ms()
        purged = await self.store.write(lambda ledger: ledger.purge_queue(now_ms))
        for job in purged:
            self._ended(job)
        return len(purged)

    def recent(self, limit: int) -> list[Job]:
        """The newest jobs, newest first."""
        return self.store.reader.recent(self.clock.now_ms(), limit)

    def health(self) -> dict[str, dict[str, int]]:
        """Counts of jobs and workers."""
        busy = {job.worker for job in self.store.reader.held() if job.worker is not None}
        return {
            "jobs": self.store.reader.counts(),
            "workers": self.workers.health(busy, self._simulation.throttled),
        }

    # What workers do.

    async def take(
        self, worker_id: str, gpu: str | None, *, most: int, idle: bool, gone: Gone
    ) -> list[Taken]:
        """Up to `most` jobs for this worker; waits for the first. Empty when there were none in time.

        `idle` is the worker's word that it is at no job.
        """
        worker = self.workers.seen(worker_id, gpu)
        with self.workers.asking(worker, gone, for_jobs=True):
            if idle and worker.pings == 0:
                # Without pings this is the only way to learn that a job or its result got lost on the way.
                await self._lose(worker_id, self._unheard_of(worker, self.store.reader.held(worker_id)))
            end_s = self._time() + self.config.poll_s
            while not gone.done() and not worker.retired and not self._closed:
                left_s = end_s - self._time()
                if self._is_cold(worker):
                    if self.store.reader.has_queued() and left_s > 0:
                        await self._warm_up(worker, left_s, gone)
                        continue
                elif jobs := await self._take_now(worker, most, gone):
                    return jobs
                if left_s <= 0 or not await self._takers.park(gone, left_s):
                    return []
            # The SDK asks again at once, so do not answer at once that there is nothing.
            await asyncio.wait({gone}, timeout=1)
            return []

    async def stops(self, worker_id: str, gpu: str | None, gone: Gone) -> list[str]:
        """The jobs that this worker is to stop; waits for the first."""
        worker = self.workers.seen(worker_id, gpu)
        with self.workers.asking(worker, gone):
            if not worker.stops and not worker.retired and not self._closed:
                asked = asyncio.create_task(worker.stop_asked.wait())
                either: set[asyncio.Future[Any]] = {asked, gone}
                await asyncio.wait(either, timeout=self.config.poll_s, return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
            return [] if gone.done() else self.workers.take_stops(worker)

    async def ping(self, worker_id: str, gpu: str | None, job_ids: Collection[str]) -> None:
        """A worker's sign of life and the jobs it is at, checked against those it should be at."""
        worker = self.workers.pinged(worker_id, gpu, job_ids)
        if worker is None:
            return
        held = self.store.reader.held(worker_id)
        for job_id in set(job_ids) - {job.id for job in held}:
            self.workers.stop(worker_id, job_id)  # cancelled, timed out, or given to another
        worker.listed_ms = {job.id: worker.listed_ms.get(job.id, 0) for job in held}
        await self._lose(worker_id, self._unheard_of(worker, held))

    async def progress(self, worker_id: str, gpu: str | None, job_id: str, output: bytes) -> None:
        """A worker's word on a job under way."""
        self.workers.seen(worker_id, gpu)
        now_ms = self.clock.now_ms()
        await self.store.write(lambda ledger: ledger.progress(job_id, worker_id, output, now_ms))

    async def finish(
        self, worker_id: str, gpu: str | None, job_id: str, *, output: bytes | None, error: str | None
    ) -> None:
        """A worker's result: FAILED if there is an error, else COMPLETED."""
        self.workers.seen(worker_id, gpu).worked_ms = self.clock.now_ms()
        now_ms = self.clock.now_ms()
        status = Status.COMPLETED if error is None else Status.FAILED
        self._result_bytes += (len(output or b"") - self._result_bytes) * _RESULT_WEIGHT
        job = await self.store.write(
            lambda ledger: ledger.finish(job_id, worker_id, status, output, error, now_ms)
        )
        self._ended(job)

    async def add_chunk(self, worker_id: str, gpu: str | None, job_id: str, output: bytes) -> None:
        """A part of a streaming job's output."""
        self.workers.seen(worker_id, gpu)
        now_ms = self.clock.now_ms()
        await self.store.write(lambda ledger: ledger.add_chunk(job_id, worker_id, output, now_ms))
        self._bells.ring(job_id)

    async def exited(self, worker_id: str) -> None:
        """This worker's process is known to have ended: its jobs need not wait for a timeout."""
        self.workers.forget(worker_id)
        await self._lose(worker_id, [job.id for job in self.store.reader.held(worker_id)])

    def retire(self, worker_id: str) -> None:
        """This worker asked to be replaced: it gets no more jobs."""
        worker = self.workers.seen(worker_id, None)
        worker.retired = True
        # It ends when its open requests have: let them go.
        self._takers.wake(len(self._takers))
        worker.stop_asked.set()
        self.on_retire(worker_id)

    # What time does.

    async def keep_time(self) -> None:
        """Run `tick` for ever. What it could not do stays due."""
        while True:
            await asyncio.sleep(_TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Do what is due: dead workers, deadlines, deletions."""
        stalled_s = self._time() - self._ticked_s - _TICK_S
        self._ticked_s = self._time()
        if stalled_s > _STALL_S:
            # This process stood still, and with it the workers' signs of life.
            self.workers.forgive(int(stalled_s * 1000))
        for worker in self.workers.bury():
            await self._lose(worker.id, [job.id for job in self.store.reader.held(worker.id)])
        self._weigh_work()
        now_ms = self.clock.now_ms()
        try:
            await self._do_what_is_due(now_ms)
        except DiskFull:
            _log.error("the disk of %s is full; expired jobs are being deleted", self.config.folder)
            await self.store.make_room(now_ms)

    async def _do_what_is_due(self, now_ms: int) -> None:
        if self.store.reader.anything_due(now_ms):
            for job in await self.store.write(lambda ledger: ledger.end_overdue(now_ms)):
                self._ended(job, stop=True)
            deleted = await self.store.write(lambda ledger: ledger.delete_expired(now_ms))
            if deleted and self._vacuum_at_s is None:
                self._vacuum_at_s = self._time() + _VACUUM_PAUSE_S
        if self._vacuum_at_s is not None and self._time() >= self._vacuum_at_s:
            self._vacuum_at_s = None
            await self.store.vacuum()

    # Helpers.

    def _weigh_work(self) -> None:
        """What waits and what is under way; counted on from here until the next look."""
        counts = self.store.reader.counts()
        self._live_jobs = counts["inQueue"] + counts["inProgress"]
        self._queued_bytes = self.store.reader.queued_bytes()

    def _check_room(self, size: int) -> None:
        """Refuse new work while what is there can still be finished."""
        most = self.config.max_queue_bytes
        if self._queued_bytes + size > most:
            raise NoRoom(
                f"the inputs of the jobs that wait take {self._queued_bytes / MB:.0f} MB, and this one's "
                f"{size / MB:.1f} MB would be more than the {most / MB:g} MB that may wait (--max-queue-mb); "
                "send it when some are done"
            )
        # Those that were taken before will want room for their results, and so will this one.
        results = (self._live_jobs + 1) * self._result_bytes
        if not self.store.room.has_room_for(size + int(results)):
            raise NoRoom(
                f"the disk of the endpoint's data folder is nearly full ({self.store.room.free_bytes / MB:.0f} MB "
                "left); new jobs are taken again when results have expired or there is more room"
            )

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()

    async def _take_now(self, worker: Worker, most: int, gone: Gone) -> list[Taken]:
        if not self.store.reader.has_queued():
            return []
        now_ms, sharers = self.clock.now_ms(), len(self._takers)
        taken = await self.store.write(
            lambda ledger: ledger.take(worker.id, worker.gpu, most, sharers, now_ms)
        )
        if gone.done():
            job_ids = [item.job.id for item in taken]
            await self.store.write(lambda ledger: ledger.give_back(job_ids, worker.id))
            self._takers.wake(len(taken))
            return []
        if not taken:
            return []
        taken = [item for item in taken if not self._is_lost(item, worker)]
        if not taken:
            return await self._take_now(worker, most, gone)
        worker.worked_ms = self.clock.now_ms()
        worker.stops.difference_update(item.job.id for item in taken)
        if self.store.reader.has_queued():
            self._takers.wake(1)
        return taken

    def _is_cold(self, worker: Worker) -> bool:
        """Whether this worker is asleep, by simulation."""
        if worker.cold is None:
            worker.cold = self._simulation.cold_start_s > 0
        idle_ms = self.clock.now_ms() - worker.worked_ms
        if not worker.cold and idle_ms > self._simulation.idle_s * 1000 and self._simulation.cold_start_s:
            worker.cold = not self.store.reader.held(worker.id)
        return worker.cold

    async def _warm_up(self, worker: Worker, at_most_s: float, gone: Gone) -> None:
        """Simulate a part of a cold start."""
        now_ms = self.clock.now_ms()
        if worker.warm_at_ms is None:
            worker.warm_at_ms = now_ms + int(self._simulation.cold_start_s * 1000)
            self._takers.wake(1)  # one that is awake may be among the others
        left_s = (worker.warm_at_ms - now_ms) / 1000
        await asyncio.wait({gone}, timeout=max(0, min(at_most_s, left_s, _TICK_S)))
        if self.clock.now_ms() >= worker.warm_at_ms:
            worker.cold, worker.warm_at_ms, worker.worked_ms = False, None, self.clock.now_ms()

    def _is_lost(self, item: Taken, worker: Worker) -> bool:
        """Simulate that the worker is lost with this job: it never learns of it."""
        if not self.fate.loses_worker():
            return False

        async def lose() -> None:
            await asyncio.sleep(self._simulation.lose_after_s)
            held = {job.id: job.taken_ms for job in self.store.reader.held(worker.id)}
            if not self._draining and held.get(item.job.id) == item.job.taken_ms:
                await self._lose(worker.id, [item.job.id])

        task = asyncio.create_task(lose())
        self._losing.add(task)
        task.add_done_callback(self._losing.discard)
        return True

    def _unheard_of(self, worker: Worker, held: list[Job]) -> list[str]:
        """Which of a worker's jobs it has not known of for longer than a result or a ping may take."""
        since_ms = self.clock.now_ms() - self._lost_after_ms
        heard_ms = worker.listed_ms
        return [
            job.id
            for job in held
            if max(job.taken_ms or 0, self._start_ms, heard_ms.get(job.id, 0)) < since_ms
        ]

    async def _lose(self, worker_id: str, job_ids: list[str]) -> None:
        """Take these jobs away from a worker that seems to have lost them."""
        if not job_ids:
            return
        now_ms = self.clock.now_ms()
        lost = await self.store.write(
            lambda ledger: ledger.lose_worker(job_ids, worker_id, self.config.max_requeues, now_ms)
        )
        for job in lost:
            if job.final:
                self._ended(job)
        self._takers.wake(len(lost))

    def _stop(self, worker_id: str, job_id: str) -> None:
        """Have the worker told to stop this job, unless it has been given it anew."""
        if self._draining:
            return  # the store may be closed
        if not any(job.id == job_id for job in self.store.reader.held(worker_id)):
            self.workers.stop(worker_id, job_id)

    def _ended(self, job: Job, *, stop: bool = False) -> None:
        """Tell everyone concerned that this job is final."""
        if stop and job.worker is not None:
            for pause_s in _STOP_PAUSES_S:
                asyncio.get_running_loop().call_later(pause_s, self._stop, job.worker, job.id)
        self._bells.ring(job.id)
        self.on_final()
