"""From process start to the first image: this worker against a handler that loads everything at module level.

And against itself with QUICK_START=0, which shows what `sdworker/quick_start.py` is worth.

Fresh processes, in turn, several rounds, in both modes of the SDK: `--test_input`, and production against
a stand-in platform with the job already in its queue. The ratio of each round is what counts, because a noisy
machine slows both. Files are in the page cache: the first, uncounted round sees to that.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes.scripts import script_process
from bench.report import spread, table, write_json
from bench.standin import Platform, platform

__all__ = ["run"]

_JOB = {"prompt": "a red apple", "seed": 1, "steps": 25, "guidance_scale": 5.0}
_OURS, _PLAIN, _NAIVE = "this worker", "QUICK_START=0", "naive handler"
_CONTENDERS: dict[str, tuple[str, dict[str, str]]] = {
    _OURS: ("handler.py", {}),
    _PLAIN: ("handler.py", {"QUICK_START": "0"}),
    _NAIVE: ("bench/serving/naive_handler.py", {}),
}
# What a line of output says has just been finished. Both print each mark as soon as it is reached.
_MARKS = {
    "loading ": "imports",
    "loaded in ": "weights",
    "warmed up in ": "warm-up",
    "mark: imports": "imports",
    "mark: weights": "weights",
    "mark: placement": "placement",
}
_STAGES = ("imports", "weights", "placement", "warm-up", "job taken", "first image")
_TIMEOUT_S = 120


@dataclass
class _Start:
    """One process, from its start to its first image: stage → seconds since the start at which it was over."""

    began: float = field(default_factory=time.perf_counter)
    at: dict[str, float] = field(default_factory=dict)

    def reached(self, stage: str) -> None:
        self.at.setdefault(stage, time.perf_counter() - self.began)

    def durations(self) -> dict[str, float]:
        """Stage → seconds since the stage before it."""
        order = sorted(self.at.items(), key=lambda item: item[1])
        before = [0.0, *(at for _, at in order)]
        return {stage: at - start for (stage, at), start in zip(order, before, strict=False)}


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    figures: dict[str, Any] = {}
    for mode, start in (("--test_input", _start_locally), ("production", _start_in_production)):
        starts = asyncio.run(_measure(start, model.resolve(), rounds))
        figures[mode] = _report(mode, starts, rounds)
    print(f"written to {write_json('coldstart', figures)}")


async def _measure(start: Any, model: Path, rounds: int) -> dict[str, list[_Start]]:
    starts: dict[str, list[_Start]] = {name: [] for name in _CONTENDERS}
    for number in range(rounds + 1):
        for name, (script, environment) in _CONTENDERS.items():
            async with asyncio.timeout(_TIMEOUT_S):
                measured = await start(script, {"MODEL_DIR": str(model), **environment})
            if number > 0:
                starts[name].append(measured)
    return starts


def _report(mode: str, starts: dict[str, list[_Start]], rounds: int) -> dict[str, Any]:
    totals = {name: [start.at["first image"] for start in runs] for name, runs in starts.items()}
    ratios = {
        name: spread([ours / other for ours, other in zip(totals[_OURS], totals[name], strict=True)])
        for name in (_NAIVE, _PLAIN)
    }
    stages = {
        name: {
            stage: spread([start.durations()[stage] for start in runs])
            for stage in _STAGES
            if stage in runs[0].at
        }
        for name, runs in starts.items()
    }
    table(
        f"coldstart, {mode}: seconds for each stage, {rounds} rounds",
        ("stage", *starts),
        [(stage, *(_cell(stages[name].get(stage)) for name in starts)) for stage in _STAGES]
        + [("in all", *(_cell(spread(totals[name])) for name in starts))],
    )
    for name, ratio in ratios.items():
        print(f"to the first image, this worker / {name}: {_cell(ratio)}")
    return {
        "stages_s": stages,
        "first_image_s": {name: spread(values) for name, values in totals.items()},
        "ratios": ratios,
    }


def _cell(values: dict[str, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"


async def _start_locally(script: str, environment: dict[str, str]) -> _Start:
    """One job by `--test_input`; over when the SDK says that the job is."""
    async with _process(script, ["--test_input", json.dumps({"input": _JOB})], environment) as (
        start,
        process,
    ):
        await _follow(process, start, until="completed successfully")
        start.reached("first image")
    return start


async def _start_in_production(script: str, environment: dict[str, str]) -> _Start:
    """One job out of a platform's queue; over when its result has been posted."""
    async with platform() as standin:
        standin.submit("cold", **_JOB)
        async with _process(script, [], {**standin.environment(), **environment}) as (start, process):
            following = asyncio.create_task(_follow(process, start))
            await standin.until(lambda: "cold" in standin.taken)
            start.reached("job taken")
            _check_result(await standin.result("cold"), standin)
            start.reached("first image")
            following.cancel()
    return start


def _check_result(result: dict[str, Any], standin: Platform) -> None:
    if "output" not in result or standin.unhealthy:
        raise RuntimeError(f"the job failed: {str(result)[:500]}")


@asynccontextmanager
async def _process(
    script: str, arguments: Sequence[str], environment: dict[str, str]
) -> AsyncIterator[tuple[_Start, asyncio.subprocess.Process]]:
    """A handler's process and its clock."""
    # Where others use the cores too, two threads that wait for each other can take ten times as long to draw
    # as one; this bench is about what comes before.
    one_thread = {"OMP_NUM_THREADS": "1"}
    start = _Start()
    async with script_process(script, *arguments, **one_thread, **environment) as process:
        yield start, process


async def _follow(process: asyncio.subprocess.Process, start: _Start, until: str | None = None) -> None:
    """Note each mark in the process's output, to its end or to a line that holds `until`.

    Raises:
        RuntimeError: the output ended before that line.
    """
    assert process.stdout is not None
    async for raw in process.stdout:
        line = raw.decode("utf-8", "replace")
        for mark, stage in _MARKS.items():
            if mark in line:
                start.reached(stage)
        if until is not None and until in line:
            return
    if until is not None:
        raise RuntimeError(f"the process ended without {until!r}")
