"""A short job that comes while long ones run: what it waits and what it costs them, here and in the naive handler.

A 10-step job comes when four 50-step jobs, submitted together, have had a tenth, half and four fifths of the time
that they take when nothing else comes. Two ratios of latencies:

- the short job's, over its latency alone in an idle worker;
- the long jobs', over theirs in a run of the same worker in which the short one does not come. First come, first
  served would give them just that, because they came first: what this ratio is above 1 is what they gave up for
  the short one. The first of them to return is compared with the first, and so on; the worst of the four counts.

All of it is measured anew in each round, so that both sides of a ratio have the same machine.
"""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.report import spread, table, write_json
from bench.serving.callers import Submitter, until_idle, until_quiet
from bench.serving.contenders import contenders
from bench.standin import Platform

__all__ = ["Load", "measure", "report", "run"]


@dataclass(frozen=True)
class Load:
    """What arrives.

    Attributes:
        long_jobs: how many long jobs.
        long_steps, short_steps: steps of a long job and of the short one.
        moments: when the short one arrives, as fractions of the long ones' time.
        alone: how often the short one is sent alone; the median counts.
    """

    long_jobs: int = 4
    long_steps: int = 50
    short_steps: int = 10
    moments: tuple[float, ...] = (0.1, 0.5, 0.8)
    alone: int = 3


_LOAD = Load()


@dataclass(frozen=True)
class _Round:
    """Latencies in seconds, the long jobs' in order of their return; `short` and `long` by moment."""

    alone: float
    undisturbed: list[float]
    short: dict[float, float]
    long: dict[float, list[float]]

    def short_ratio(self, moment: float) -> float:
        return self.short[moment] / self.alone

    def long_ratio(self, moment: float) -> float:
        return max(a / b for a, b in zip(self.long[moment], self.undisturbed, strict=True))


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    figures = asyncio.run(_start_and_measure(model.resolve(), rounds))
    report(figures)
    print(f"written to {write_json('fair', figures)}")


async def _start_and_measure(model: Path, rounds: int) -> dict[str, Any]:
    async with contenders(model) as platforms:
        return await measure(platforms, rounds)


async def measure(platforms: Mapping[str, Platform], rounds: int, load: Load = _LOAD) -> dict[str, Any]:
    """The figures of running contenders, as they are written."""
    for platform in platforms.values():  # warm-up
        await _send(platform, [load.short_steps])
    measured: dict[str, list[_Round]] = {name: [] for name in platforms}
    for _ in range(rounds):
        for name, platform in platforms.items():
            await until_quiet(platforms.values())
            while (one := await _measure_round(platform, load)) is None:
                print(f"{name}: a round is repeated, because the machine's speed changed too much in it")
            measured[name].append(one)
    return {
        "rounds": rounds,
        **asdict(load),
        "workers": {name: _figures_of(of_this, load) for name, of_this in measured.items()},
    }


async def _measure_round(platform: Platform, load: Load) -> _Round | None:
    """None: the long jobs were so much quicker than alone that they were back before the short one came."""
    alone = statistics.median([(await _send(platform, [load.short_steps]))[0] for _ in range(load.alone)])
    long_jobs = [load.long_steps] * load.long_jobs
    undisturbed = await _send(platform, long_jobs)
    short: dict[float, float] = {}
    long: dict[float, list[float]] = {}
    for moment in load.moments:
        after_s = moment * undisturbed[-1]
        *long[moment], short[moment] = await _send(
            platform, long_jobs, later=load.short_steps, after_s=after_s
        )
        if long[moment][-1] <= after_s:
            return None
    return _Round(alone, undisturbed, short, long)


async def _send(
    platform: Platform, steps: Sequence[int], *, later: int | None = None, after_s: float = 0.0
) -> list[float]:
    """Latencies, in seconds, of jobs that an idle worker gets together, in order of their return.

    Args:
        steps: of each of them.
        later: the steps of one more job, which comes `after_s` later; its latency is the last of the list.
    """
    await until_idle(platform)
    submitter = Submitter(platform)
    together = [submitter.submit(steps_) for steps_ in steps]
    late = []
    if later is not None:
        await asyncio.sleep(after_s)
        late = [submitter.submit(later)]
    await submitter.until([*together, *late])
    answered = submitter.answered()
    return [
        *(job.latency_s for job in answered if job.job_id not in late),
        *(job.latency_s for job in answered if job.job_id in late),
    ]


def _figures_of(rounds: Sequence[_Round], load: Load) -> dict[str, Any]:
    return {
        "short_alone_s": spread([one.alone for one in rounds]),
        "long_undisturbed_s": spread([one.undisturbed[-1] for one in rounds]),
        "moments": [
            {
                "moment": moment,
                "short_s": spread([one.short[moment] for one in rounds]),
                "short_ratio": spread([one.short_ratio(moment) for one in rounds]),
                "long_s": spread([one.long[moment][-1] for one in rounds]),
                "long_ratio": spread([one.long_ratio(moment) for one in rounds]),
            }
            for moment in load.moments
        ],
    }


def report(figures: Mapping[str, Any]) -> None:
    """Print the figures of `measure`."""
    table(
        f"fair: a job of {figures['short_steps']} steps comes while {figures['long_jobs']} of "
        f"{figures['long_steps']} run, {figures['rounds']} rounds; latencies, of the long jobs the last one's",
        (
            "worker",
            "comes at",
            "short alone s",
            "short s",
            "short / alone",
            "long alone s",
            "long s",
            "long / fcfs",
        ),
        [
            (
                name,
                f"{at['moment']:.0%}",
                f"{of_this['short_alone_s']['median']:.2f}",
                f"{at['short_s']['median']:.2f}",
                _range(at["short_ratio"]),
                f"{of_this['long_undisturbed_s']['median']:.2f}",
                f"{at['long_s']['median']:.2f}",
                _range(at["long_ratio"]),
            )
            for name, of_this in figures["workers"].items()
            for at in of_this["moments"]
        ],
    )


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"
