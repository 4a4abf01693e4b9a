"""Who works here: which workers are alive, what their pings say, and what they must be told to stop.

In memory only. After a restart workers are learnt again from the jobs they hold and from their requests.

A worker shows life by asking for jobs or for stops, by posting, and by pinging. Pings alone are not
enough: the SDK sends them from a process of its own, which outlives a worker that was killed. So a worker
whose open requests broke off, or that has never asked for anything, is not kept alive by its pings.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Worker", "Workers"]

_REMEMBERED_DEAD = 1000


@dataclass(slots=True)
class Worker:
    """One worker, by the id it gives itself. Times are milliseconds of the endpoint's clock."""

    id: str
    gpu: str | None
    seen_ms: int
    asks: bool = False
    """Whether it is known to ask for work: true from its first request until one breaks off."""
    new: bool = True
    """It has not asked for anything yet: still starting, as far as anyone can tell."""
    open_requests: int = 0
    taking: int = 0
    """How many of its open requests are for jobs: it is idle or has room for more."""
    pings: int = 0
    retired: bool = False
    """It said `stopPod`: it wants to be replaced and gets no more jobs."""
    cold: bool | None = None
    """Asleep: it needs a cold start before it takes a job (`--simulate`); None until that is known."""
    warm_at_ms: int | None = None
    """When the cold start that is under way ends."""
    worked_ms: int = 0
    """When it last took a job or ended one."""
    listed_ms: dict[str, int] = field(default_factory=dict)
    """When each of its jobs was last in a ping."""
    stops: set[str] = field(default_factory=set)
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)


class Workers:
    """All workers that are not known to be dead."""

    def __init__(self, timeout_ms: int, now_ms: Callable[[], int]) -> None:
        self._timeout_ms = timeout_ms
        self._now_ms = now_ms
        self._workers: dict[str, Worker] = {}
        self._dead: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def expect(self, worker_id: str, gpu: str | None) -> None:
        """Learn of a worker from a job it holds: it has one timeout to show up."""
        self._workers.setdefault(worker_id, Worker(worker_id, gpu, self._now_ms()))

    def seen(self, worker_id: str, gpu: str | None) -> Worker:
        """Note a request other than a ping."""
        self._dead.pop(worker_id, None)
        worker = self._workers.setdefault(worker_id, Worker(worker_id, gpu, 0))
        worker.seen_ms = self._now_ms()
        worker.gpu = gpu or worker.gpu
        return worker

    def pinged(self, worker_id: str, gpu: str | None, job_ids: Iterable[str]) -> Worker | None:
        """Note a ping and the jobs in it; None if the worker is dead and only its pings go on."""
        if worker_id in self._dead:
            return None
        now_ms = self._now_ms()
        worker = self._workers.setdefault(worker_id, Worker(worker_id, gpu, now_ms))
        worker.pings += 1
        if worker.asks:
            worker.seen_ms = now_ms
        worker.listed_ms.update(dict.fromkeys(job_ids, now_ms))
        return worker

    @contextmanager
    def asking(self, worker: Worker, gone: asyncio.Future[None], *, for_jobs: bool = False) -> Iterator[None]:
        """Hold one of the worker's requests open, and note whether it broke off (`gone` is done then)."""
        worker.asks, worker.new = True, False
        worker.open_requests += 1
        worker.taking += for_jobs
        try:
            yield
        finally:
            worker.open_requests -= 1
            worker.taking -= for_jobs
            if not gone.done():
                worker.seen_ms = self._now_ms()
            elif worker.open_requests == 0:
                worker.asks = False

    def stop(self, worker_id: str | None, job_id: str) -> None:
        """Have a worker told to stop a job, as soon as it asks."""
        if worker_id is not None and (worker := self._workers.get(worker_id)):
            worker.stops.add(job_id)
            worker.stop_asked.set()

    def take_stops(self, worker: Worker) -> list[str]:
        """What the worker is to stop, each said once; a ping that lists the job has it said again."""
        stops, worker.stops = sorted(worker.stops), set()
        worker.stop_asked.clear()
        return stops

    def forget(self, worker_id: str) -> None:
        """This worker is gone; the next one of its id is a new one."""
        self._workers.pop(worker_id, None)

    def forgive(self, stalled_ms: int) -> None:
        """Do not count a time in which nobody could be heard."""
        for worker in self:
            worker.seen_ms = min(worker.seen_ms + stalled_ms, self._now_ms())

    def bury(self) -> list[Worker]:
        """Forget the workers that have been silent for too long, and return them."""
        silent_since_ms = self._now_ms() - self._timeout_ms
        dead = [worker for worker in self if worker.seen_ms <= silent_since_ms and worker.open_requests == 0]
        for worker in dead:
            del self._workers[worker.id]
            self._dead[worker.id] = None
            if len(self._dead) > _REMEMBERED_DEAD:
                self._dead.popitem(last=False)
        return dead

    def health(self, busy: set[str], throttled: int = 0) -> dict[str, int]:
        """The platform's counts; `busy` are the ids of workers that hold jobs, `throttled` is a simulation's."""
        alive = [worker for worker in self if worker.asks and not worker.cold]
        running = sum(worker.id in busy for worker in alive)
        # An idle worker is ready also in the moment between two requests for jobs.
        ready = sum(worker.taking > 0 or worker.id not in busy for worker in alive if not worker.retired)
        return {
            "idle": len(alive) - running,
            "initializing": sum(
                (worker.new and worker.id not in busy) or worker.warm_at_ms is not None for worker in self
            ),
            "ready": ready,
            "running": running,
            "throttled": throttled,
        }
