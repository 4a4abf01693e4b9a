"""What several models in one worker cost: against one, at a switch, and over many loads.

- Sixteen callers, each sending one job after another, over four models of the same size against the same over one,
  in turn. Jobs of several models do not share steps, so this is what is lost by it.
- A job of a model that is loaded, right behind one of another: against a job right behind one of its own model.
- Two models of which one fits, asked for in turn: a load each time. The process's memory must not grow.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

from bench.common import drawing_for, loading_here
from bench.jobs.usage import used_bytes
from bench.report import spread, table, write_json
from sdworker.engine.engine import Engine
from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.families import load_model, weights_bytes
from sdworker.engine.pool import ModelPool, Pooled

__all__ = ["run"]

_CALLERS = 16
_JOBS = 3  # of each caller
_STEPS = 8
_LOADS = 200


def run(folder: Path, rounds: int) -> None:
    """Measure and report."""
    figures = asyncio.run(_measure(folder, rounds))
    table("several models", ("what", "figure"), list(figures.items()))
    write_json("models", figures)


async def _measure(folder: Path, rounds: int) -> dict[str, object]:
    loading = loading_here()
    engine = Engine(load_model(folder, loading))
    await engine.calibrate()
    load = partial(load_model, folder, loading)
    size = weights_bytes(check_model_folder(folder), loading.dtype)
    pool = ModelPool(engine, [Pooled(name, size, load) for name in "abcd"])
    for name in "abcd":
        await _draw(engine, pool, name, 0)
    shares = []
    for _ in range(rounds):
        one = await _jobs_a_second(engine, pool, "a")
        shares.append(await _jobs_a_second(engine, pool, "abcd") / one)
    switches = []
    for _ in range(4 * rounds):
        same = await _seconds(engine, pool, "aa")
        switches.append((await _seconds(engine, pool, "ab")) / same)
    pool.close()
    engine.close()
    engine = Engine(load())
    tight = ModelPool(engine, [Pooled(name, size, load) for name in "ab"], budget_bytes=size)
    grown = []
    for number in range(_LOADS):
        await _draw(engine, tight, "ba"[number % 2], number, steps=1)
        if number in (_LOADS // 4, _LOADS - 1):
            grown.append(used_bytes(loading.device))
    tight.close()
    engine.close()
    return {
        "four models' throughput, of one's": spread(shares),
        "a job behind another model's, of one behind its own's": spread(switches),
        f"memory after {_LOADS} loads, of that after {_LOADS // 4}": round(grown[1] / grown[0], 3),
        "MB of a model's weights": round(size / 1e6, 1),
    }


async def _jobs_a_second(engine: Engine, pool: ModelPool, names: str) -> float:
    async def caller(number: int) -> None:
        for job in range(_JOBS):
            await _draw(engine, pool, names[number % len(names)], 100 * number + job)

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(_CALLERS)))
    return _CALLERS * _JOBS / (time.perf_counter() - began)


async def _seconds(engine: Engine, pool: ModelPool, names: str) -> float:
    """Of the last of these jobs, one after another; the better of two."""
    times = []
    for _ in range(2):
        for name in names:
            began = time.perf_counter()
            await _draw(engine, pool, name, 1)
        times.append(time.perf_counter() - began)
    return min(times)


async def _draw(engine: Engine, pool: ModelPool, name: str, seed: int, *, steps: int = _STEPS) -> None:
    async with pool.use(name) as model:
        await engine.draw(drawing_for(model, steps=steps, seeds=(seed,)), model=model)
