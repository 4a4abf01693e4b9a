"""What `busy.py` measures, in a process of its own: steps, alone and beside neighbours."""

import sdworker.quick_start  # noqa: F401 - as handler.py does, and before anything else can load torch

# isort: split
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

from bench.common import drawing_for
from sdworker.engine.engine import Engine
from sdworker.settings import load_settings
from sdworker.startup import build_worker

_ROWS = (2, 8)
_STEPS = 40
_SPIN = "import os, sys, time\nos.sched_setaffinity(0, {int(sys.argv[1])})\nend = time.monotonic() + 600\n"
_SPIN += "while time.monotonic() < end and os.getppid() == int(sys.argv[2]): pass"


@contextlib.contextmanager
def _neighbours() -> Iterator[None]:
    """While open, another program computes on each core, without end."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", _SPIN, str(core), str(os.getpid())])
        for core in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


async def _measure(engine: Engine) -> dict[str, float]:
    async def median_ms(rows: int) -> float:
        ends: list[float] = []
        drawing = drawing_for(engine.model, steps=_STEPS, guidance=7.5, seeds=tuple(range(rows // 2)))
        await engine.draw(drawing, lambda _step, _steps: ends.append(time.perf_counter()))
        return 1000 * statistics.median(later - sooner for sooner, later in pairwise(ends))

    async def measure(kind: str) -> dict[str, float]:
        return {f"{rows} rows, {kind}": await median_ms(rows) for rows in _ROWS}

    await engine.calibrate()
    figures = await measure("quiet")
    with _neighbours():
        return figures | await measure("busy")


def main() -> None:
    """Time steps of jobs, alone and beside neighbours, and print them."""
    print(json.dumps(asyncio.run(_measure(build_worker(load_settings()).engine))))


if __name__ == "__main__":
    main()
