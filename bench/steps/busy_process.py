"""What `busy.py` measures, in a process of its own that stays: a line asks for a job, a line tells its steps."""

import sdworker.quick_start  # noqa: F401 - as handler.py does, and before anything else can load torch

# isort: split
import asyncio
import contextlib
import json
import sys
import time
from itertools import pairwise

from bench.common import drawing_for
from sdworker.engine.engine import Engine
from sdworker.settings import load_settings
from sdworker.startup import build_worker

__all__ = ["main"]

# It is at rest when it has computed for less than this share of a moment: what steps cost is learned in idle time.
_AT_REST, _MOMENT_S = 0.1, 0.5


async def _steps_s(engine: Engine, rows: int, steps: int, most_s: float) -> list[float]:
    """What each step of a job of so many rows took, the first left out; fewer steps where they take too long."""
    ends: list[float] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    end_s = time.perf_counter() + most_s

    def stepped(_step: int, _steps: int) -> None:
        ends.append(time.perf_counter())
        if ends[-1] > end_s and len(ends) > 3:
            loop.call_soon_threadsafe(enough.set)

    drawing = drawing_for(engine.model, steps=steps, guidance=7.5, seeds=tuple(range(rows // 2)))
    drawn = asyncio.create_task(engine.draw_latents(drawing, stepped))
    stopped = asyncio.create_task(enough.wait())
    await asyncio.wait([drawn, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in (drawn, stopped):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return [later - sooner for sooner, later in pairwise(ends)]


async def _until_at_rest() -> None:
    while True:
        begun = time.process_time()
        await asyncio.sleep(_MOMENT_S)
        if time.process_time() - begun < _AT_REST * _MOMENT_S:
            return


async def _serve(engine: Engine) -> None:
    """Answer each line [rows, steps, seconds at most] with a line of seconds."""
    await engine.calibrate()
    await _until_at_rest()
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _steps_s(engine, *json.loads(line))), flush=True)
    engine.close()


def main() -> None:
    """Build the worker as in production and draw what is asked for until the input ends."""
    asyncio.run(_serve(build_worker(load_settings()).engine))


if __name__ == "__main__":
    main()
