"""Callers of one worker: they submit jobs to its platform and note when each came back.

Closed-loop callers, as `call` has them, submit their next job when their last one is done.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.standin import Platform

__all__ = ["Answered", "Stretch", "Submitter", "call", "percentile", "until_idle", "until_quiet"]

# The fewest jobs that are measured, however short the time given.
_LEAST_JOBS = 2
_IDLE_WORK_S = 3.0


@dataclass(frozen=True)
class Answered:
    """A job that came back.

    Attributes:
        job_id: its id.
        steps: the steps it asked for.
        done_at: when its result arrived, by `time.perf_counter()`.
        latency_s: from its submission to its result.
        first_progress_s: from its submission to its first progress update; None: it had none.
    """

    job_id: str
    steps: int
    done_at: float
    latency_s: float
    first_progress_s: float | None


class Submitter:
    """Submits jobs to a platform, each with a prompt and a seed of its own, and knows what became of them."""

    _numbers = itertools.count()

    def __init__(self, platform: Platform, more: Callable[[], Mapping[str, Any]] = dict) -> None:
        """
        Args:
            more: what else each job's input has.
        """
        self._platform = platform
        self._more = more
        self._first_post = len(platform.posts)
        self._submitted: dict[str, tuple[int, float]] = {}

    def submit(self, steps: int) -> str:
        """Returns the job's id."""
        number = next(self._numbers)
        job_id = f"job-{number}"
        self._submitted[job_id] = steps, time.perf_counter()
        self._platform.submit(
            job_id,
            prompt=f"a red apple, number {number}",
            steps=steps,
            guidance_scale=5.0,
            scheduler="DPM++ 2M Karras",
            seed=number,
            **self._more(),
        )
        return job_id

    async def until(self, job_ids: Sequence[str]) -> None:
        """Wait until all of these are back."""
        await self._platform.until(lambda: all(job_id in self._platform.results for job_id in job_ids))

    def answered(self) -> list[Answered]:
        """Its jobs that are back, in the order of their return.

        Raises:
            RuntimeError: one of them failed.
        """
        answered: list[Answered] = []
        progressed_at: dict[str, float] = {}
        posts = zip(self._platform.posts, self._platform.posted_at, strict=True)
        for (job_id, body), at in itertools.islice(posts, self._first_post, None):
            if job_id not in self._submitted:
                continue
            if body.get("status") == "IN_PROGRESS":
                progressed_at.setdefault(job_id, at)
                continue
            if "output" not in body:
                raise RuntimeError(f"{job_id} failed: {str(body)[:500]}")
            steps, since = self._submitted[job_id]
            first = progressed_at.get(job_id)
            answered.append(Answered(job_id, steps, at, at - since, None if first is None else first - since))
        return answered


@dataclass(frozen=True)
class Stretch:
    """What a number of closed-loop callers saw of a worker in some stretch of time.

    Attributes:
        opened_at: a moment at which a job came back, by `time.perf_counter()`; the stretch begins after it.
        jobs: those that came back in the stretch, the last of them at its end.
        settled: whether every caller had had a job back before it. If not, there were fewer jobs in the queue
            before these than there will be in the long run, and their latencies say nothing.
        callers: how many they were.
    """

    opened_at: float
    jobs: list[Answered]
    settled: bool
    callers: int

    @property
    def jobs_per_s(self) -> float:
        """Of settled callers who all ask for the same: how many there are over their mean latency.

        That is Little's law, exact for callers who never pause; unlike a count it does not depend on where the
        stretch cuts into a batch whose jobs return together. Of others: jobs over the time from one's return to
        another's.
        """
        if self.settled and len({job.steps for job in self.jobs}) == 1:
            return self.callers * len(self.jobs) / sum(job.latency_s for job in self.jobs)
        return len(self.jobs) / (self.jobs[-1].done_at - self.opened_at)

    @property
    def steps_per_s(self) -> float:
        return self.jobs_per_s * sum(job.steps for job in self.jobs) / len(self.jobs)


async def call(
    platform: Platform,
    callers: int,
    steps: Sequence[int],
    *,
    window_s: float,
    limit_s: float,
    more: Callable[[], Mapping[str, Any]] = dict,
) -> Stretch:
    """Have a number of closed-loop callers ask for images, and measure for `window_s` once that has settled.

    Args:
        steps: of the first job, the second, and so on, in turn, whoever's job it is.
        limit_s: how long to wait for every caller to have a job back. When it takes longer, what is measured is
            the time since the first job came back.
        more: what else each job's input has.

    Raises:
        RuntimeError: a job failed.
        TimeoutError: nothing came back for two minutes.
    """
    await until_idle(platform)
    submitter, in_turn = Submitter(platform, more), itertools.cycle(steps)
    caller_of = {submitter.submit(next(in_turn)): caller for caller in range(callers)}
    waiting = set(range(callers))
    earlier, done, uncounted = len(platform.results), 0, 1
    ends_at = time.perf_counter() + limit_s
    while time.perf_counter() < ends_at or done < uncounted + _LEAST_JOBS:
        await _until_more_than(platform, earlier + done)
        for job_id in list(platform.results)[earlier + done :]:
            done += 1
            caller = caller_of[job_id]
            caller_of[submitter.submit(next(in_turn))] = caller
            if waiting == {caller}:
                uncounted, ends_at = done, time.perf_counter() + window_s
            waiting.discard(caller)
    _withdraw(platform)
    answered = submitter.answered()[:done]
    return Stretch(
        answered[uncounted - 1].done_at, answered[uncounted:], settled=not waiting, callers=callers
    )


async def until_idle(platform: Platform) -> None:
    """Wait until the worker has answered all it took and asks for more."""
    await platform.until(lambda: platform.parked > 0 and platform.results.keys() >= set(platform.taken))


async def until_quiet(platforms: Iterable[Platform]) -> None:
    """Wait until all workers are idle, also whoever is not measured next, and have used their idle time.

    A worker goes on with what it took when its callers have left, and measures what steps cost when it is idle.
    """
    for platform in platforms:
        await until_idle(platform)
    await asyncio.sleep(_IDLE_WORK_S)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of some values that at least `percent` % of them do not exceed: the nearest rank.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values have no percentile")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


async def _until_more_than(platform: Platform, results: int) -> None:
    await platform.until(lambda: len(platform.results) > results)


def _withdraw(platform: Platform) -> None:
    """Take the jobs back that nobody took."""
    while not platform.queue.empty():
        platform.queue.get_nowait()
