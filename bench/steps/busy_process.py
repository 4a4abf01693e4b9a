"""What `busy.py` measures, in a process of its own: forwards, alone and beside neighbours."""

import sdworker.quick_start  # noqa: F401 - as handler.py does, and before anything else can load torch

# isort: split
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from sdworker.engine.device import time_call
from sdworker.settings import load_settings
from sdworker.startup import build_worker

_ROWS = (2, 8)
_REPEATS, _ENOUGH_S = 40, 3.0
_SPIN = "import os, sys, time\nos.sched_setaffinity(0, {int(sys.argv[1])})\nend = time.monotonic() + 60\n"
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


def main() -> None:
    """Time forwards on the engine's thread, alone and beside neighbours, and print them."""
    engine = build_worker(load_settings()).engine
    networks = engine.model

    def median_ms(rows: int) -> float:
        inputs = networks.example_input(rows)
        times = time_call(
            networks.device, lambda: networks.denoise(inputs), _REPEATS, enough_seconds=_ENOUGH_S
        )
        return 1000 * statistics.median(times)

    def measure(kind: str) -> dict[str, float]:
        return {f"{rows} rows, {kind}": median_ms(rows) for rows in _ROWS}

    figures = engine.call(lambda: measure("quiet")).result()
    with _neighbours():
        figures |= engine.call(lambda: measure("busy")).result()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
