"""Jobs a second and latency through the SDK's production mode: this worker against the naive handler.

Both are processes that stay for the whole bench, each with a stand-in platform; one idles while the other is
measured. Closed-loop callers ask for images, all of 25 steps or of 10, 20, 25 and 50 in turn; what is counted
begins when each of them has had a job back. With a worker that takes one job at a time that can take minutes, and
its callers are not waited for so long: its rate is the same whenever there is a job in its queue, and by Little's
law its mean latency is then callers / rate, which the table marks with "~".

In each round the engine also draws images of the same steps offline: all submitted at once, in a process of its
own, without the SDK and without image files. What is served is told as a fraction of that, by steps a second.
"""

import asyncio
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes.scripts import script_process
from bench.report import spread, table, write_json
from bench.serving.callers import Stretch, call, percentile, until_quiet
from bench.serving.contenders import NAIVE, OURS, contenders
from bench.standin import Platform

__all__ = ["Case", "measure", "report", "run"]


@dataclass(frozen=True)
class Case:
    """One load.

    Attributes:
        callers: how many closed-loop callers.
        steps: of their jobs, in turn.
        offline: whether it is compared with the engine offline.
    """

    callers: int
    steps: tuple[int, ...]
    offline: bool = False


_EQUAL, _MIXED = (25,), (10, 20, 25, 50)
_CASES = (
    Case(1, _EQUAL),
    Case(4, _EQUAL),
    Case(16, _EQUAL, offline=True),
    Case(64, _EQUAL),
    Case(16, _MIXED, offline=True),
)
_WINDOW_S = 8.0
# How long to wait for every caller to have a job back: see above.
_LIMITS_S = {OURS: 60.0, NAIVE: 18.0}
_OFFLINE_IMAGES = 64
_PERCENTILES = (50, 95, 99)


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    figures = asyncio.run(_start_and_measure(model.resolve(), rounds))
    report(figures)
    print(f"written to {write_json('served', figures)}")


async def _start_and_measure(model: Path, rounds: int) -> dict[str, Any]:
    async with contenders(model) as platforms:
        return await measure(platforms, model, rounds)


async def measure(
    platforms: Mapping[str, Platform],
    model: Path,
    rounds: int,
    *,
    cases: Sequence[Case] = _CASES,
    window_s: float = _WINDOW_S,
    limits_s: Mapping[str, float] = _LIMITS_S,
    offline_images: int = _OFFLINE_IMAGES,
) -> dict[str, Any]:
    """The figures of running contenders, as they are written.

    Args:
        platforms: contender → its platform.
        window_s, limits_s: see `callers.call`; limits by contender.
        offline_images: how many the engine draws offline, for each list of steps.
    """
    stretches: dict[Case, dict[str, list[Stretch]]] = {
        case: {name: [] for name in platforms} for case in cases
    }
    offline: dict[Case, list[float]] = {case: [] for case in cases if case.offline}
    for _ in range(rounds):
        for case in cases:
            for name, platform in platforms.items():
                await until_quiet(platforms.values())
                stretch = await call(
                    platform, case.callers, case.steps, window_s=window_s, limit_s=limits_s[name]
                )
                stretches[case][name].append(stretch)
        await until_quiet(platforms.values())
        drawn = await _draw_offline(model, [case.steps for case in offline], offline_images)
        for case, rates in offline.items():
            rates.append(drawn[case.steps])
    return {
        "window_s": window_s,
        "rounds": rounds,
        "served": [_figures_of(case, by_name) for case, by_name in stretches.items()],
        "offline": [_offline_figures(case, stretches[case][OURS], rates) for case, rates in offline.items()],
    }


async def _draw_offline(
    model: Path, mixes: Sequence[tuple[int, ...]], images: int
) -> dict[tuple[int, ...], float]:
    """Steps in turn → images a second.

    Raises:
        RuntimeError: the engine's process failed.
    """
    arguments = [",".join(map(str, steps)) for steps in mixes]
    async with script_process("bench/steps/offline.py", str(model), str(images), *arguments) as process:
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"bench/steps/offline.py failed:\n{output.decode('utf-8', 'replace')[-2000:]}")
    rates: dict[str, float] = json.loads(output.splitlines()[-1])
    return {steps: rates[argument] for steps, argument in zip(mixes, arguments, strict=True)}


def _figures_of(case: Case, stretches: Mapping[str, list[Stretch]]) -> dict[str, Any]:
    return {
        "callers": case.callers,
        "steps": case.steps,
        **{name: _summary(case, of_this) for name, of_this in stretches.items()},
        "ratio": spread(
            [
                ours.jobs_per_s / naive.jobs_per_s
                for ours, naive in zip(stretches[OURS], stretches[NAIVE], strict=True)
            ]
        ),
    }


def _summary(case: Case, stretches: Sequence[Stretch]) -> dict[str, Any]:
    """One contender's figures over all rounds; its latencies only if every round settled."""
    settled = all(stretch.settled for stretch in stretches)
    jobs = [job for stretch in stretches for job in stretch.jobs]
    latencies = [job.latency_s for job in jobs]
    progressed = [job.first_progress_s for job in jobs if job.first_progress_s is not None]
    rates = spread([stretch.jobs_per_s for stretch in stretches])
    return {
        "jobs": len(jobs),
        "jobs_per_s": rates,
        "steps_per_s": spread([stretch.steps_per_s for stretch in stretches]),
        "latency_s": {f"p{n}": percentile(latencies, n) for n in _PERCENTILES} if settled else None,
        "mean_latency_by_littles_law_s": case.callers / rates["median"],
        "jobs_with_progress": len(progressed),
        "first_progress_s": percentile(progressed, 50) if progressed else None,
    }


def _offline_figures(case: Case, served: Sequence[Stretch], images_per_s: Sequence[float]) -> dict[str, Any]:
    steps_an_image = statistics.mean(case.steps)
    return {
        "steps": case.steps,
        "callers": case.callers,
        "images_per_s": spread(images_per_s),
        "served_fraction": spread(
            [
                stretch.steps_per_s / (rate * steps_an_image)
                for stretch, rate in zip(served, images_per_s, strict=True)
            ]
        ),
    }


def report(figures: Mapping[str, Any]) -> None:
    """Print the figures of `measure`."""
    table(
        f"served: closed-loop callers, counted for {figures['window_s']:g} s once settled, "
        f"{figures['rounds']} rounds; p50, p95, p99: latency",
        (
            *("callers", "steps", "worker", "jobs/s", "steps/s", "ours / naive, jobs/s"),
            *(f"p{n} s" for n in _PERCENTILES),
            *("first progress s", "jobs counted"),
        ),
        [_row(case, name) for case in figures["served"] for name in (OURS, NAIVE)],
    )
    print("~: mean latency by Little's law; -: no progress update came before the result")
    for drawn in figures["offline"]:
        print(
            f"offline, {_mix(drawn['steps'])} steps: {_range(drawn['images_per_s'])} images/s; served at "
            f"{drawn['callers']} callers / offline, steps/s: {_range(drawn['served_fraction'])}"
        )


def _row(case: Mapping[str, Any], name: str) -> tuple[object, ...]:
    of_this = case[name]
    if of_this["latency_s"] is None:
        latencies = [f"~{of_this['mean_latency_by_littles_law_s']:.0f}", "", ""]
    else:
        latencies = [f"{seconds:.2f}" for seconds in of_this["latency_s"].values()]
    first = of_this["first_progress_s"]
    return (
        case["callers"],
        _mix(case["steps"]),
        name,
        _range(of_this["jobs_per_s"]),
        f"{of_this['steps_per_s']['median']:.1f}",
        _range(case["ratio"]) if name == OURS else "",
        *latencies,
        "-" if first is None else f"{first:.2f}",
        of_this["jobs"],
    )


def _mix(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"
