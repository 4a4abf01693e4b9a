"""`handler.py` on a machine so busy that a forward outlasts whoever waits for it, and that may lose its engine.

The forward is one operation of torch's after the other, as a real one is, without an end.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import runpod
import torch

from sdworker.engine import engine
from sdworker.engine.costs import calibration
from sdworker.serverless import configure

_HOW = sys.argv.pop(1)


def _endless(*_: object) -> float:
    print("measuring", flush=True)
    matrix = torch.ones(200, 200)
    while True:
        torch.mm(matrix, matrix)


def _panic(*_: object) -> float:
    raise SystemExit(77)


if __name__ == "__main__":
    engine._STEP_AT_HAND_S = 0.3
    setattr(calibration.Calibration, "_time_forward", {"endless": _endless, "panic": _panic}[_HOW])  # noqa: B010
    runpod.serverless.start(configure())
