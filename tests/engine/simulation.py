"""The engine's loop without an engine: jobs arrive, a policy chooses, steps take what they cost."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sdworker.engine.batch import Costs, choose, step_seconds
from sdworker.engine.costs import Led, Shape, StepCosts

SHAPE: Shape = (16, 16)
# Seconds of a step by rows: two CPU cores with the embedded model as measured; a card that two rows fill; one on
# which eight rows cost hardly more than two.
CPU = StepCosts({2: 0.019, 4: 0.028, 8: 0.046, 16: 0.083, 32: 0.153}, SHAPE)
SMALL_GPU = StepCosts({2: 0.024, 4: 0.041, 8: 0.075, 16: 0.140}, SHAPE)
LARGE_GPU = StepCosts({2: 0.0185, 4: 0.020, 8: 0.026, 16: 0.048, 32: 0.090}, SHAPE)


@dataclass(eq=False)
class Job:
    """A generation as the choice sees it, and what the simulation keeps of it."""

    at: float
    evaluations: int
    rows: int = 2
    group: Shape = SHAPE
    text_length: int = 77
    evaluations_left: int = field(init=False)
    age: float = 0.0
    passed_over: float = 0.0
    finished: float = 0.0
    is_live: bool = True
    memory_bytes: int = 0
    to_load: int = 0
    adapter_bytes: int = 0
    most_adapter_bytes: int = 0
    leads: tuple[Led, ...] = ()

    def __post_init__(self) -> None:
        self.evaluations_left = self.evaluations

    @property
    def led(self) -> tuple[Led, ...]:
        return tuple(replace(lead, evaluations_left=self.evaluations_left) for lead in self.leads)

    @property
    def latency(self) -> float:
        return self.finished - self.at

    def slowdown(self, costs: Costs) -> float:
        """How many times as long as alone."""
        return self.latency / (self.evaluations * step_seconds([self], costs))


def led(net: str, *, rows: int = 2, share: float = 1 / 3, now: bool = True, evaluations: int = 25) -> Led:
    """Rows that a ControlNet leads all the way."""
    return Led(net, share, rows, now, evaluations, evaluations)


Policy = Callable[[Sequence[Job], Costs], list[Job]]


def first_come_first_served(waiting: Sequence[Job], costs: Costs) -> list[Job]:
    """Full batches in order of arrival; the batching that `choose` is compared with."""
    chosen = [waiting[0]]
    rows = waiting[0].rows
    for job in waiting[1:]:
        if job.group == chosen[0].group and rows + job.rows <= costs.limit(job.group):
            chosen.append(job)
            rows += job.rows
    return chosen


def simulate(jobs: Sequence[Job], costs: Costs, policy: Policy = choose) -> list[Job]:
    """The jobs, served; those given stay as they are. Arrivals are taken in at the next step."""
    served = [Job(job.at, job.evaluations, job.rows, job.group, leads=job.leads) for job in jobs]
    coming = sorted(served, key=lambda job: job.at, reverse=True)
    waiting: list[Job] = []
    now = 0.0
    while coming or waiting:
        if not waiting:
            now = max(now, coming[-1].at)
        while coming and coming[-1].at <= now:
            waiting.append(coming.pop())
        chosen = policy(waiting, costs)
        seconds = step_seconds(chosen, costs)
        now += seconds
        for job in waiting:
            job.age += seconds
            if job not in chosen:
                job.passed_over += seconds
        for job in chosen:
            job.evaluations_left -= 1
            if not job.evaluations_left:
                job.finished = now
                waiting.remove(job)
    return served


def arrivals(
    count: int, load: float, costs: Costs, seed: int, evaluations: Sequence[int], rows: Sequence[int] = (2,)
) -> list[Job]:
    """Jobs that come at random times, at `load` times the rate that full batches can serve."""
    chance = random.Random(seed)
    jobs = [Job(0.0, chance.choice(evaluations), chance.choice(rows)) for _ in range(count)]
    row_steps_a_second = costs.limit(SHAPE) / costs.seconds(costs.limit(SHAPE), SHAPE)
    mean = sum(job.evaluations * job.rows for job in jobs) / count
    now = 0.0
    for job in jobs:
        now += chance.expovariate(load * row_steps_a_second / mean)
        job.at = now
    return jobs
