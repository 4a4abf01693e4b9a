"""`handler.py` on a machine so busy that a forward outlasts whoever waits for it, and that may lose its engine.

The forward stays in one call into torch, as a real one does, so Python cannot stop it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import runpod
import torch

from sdworker.engine import calibration, engine
from sdworker.serverless import configure

_HOW = sys.argv.pop(1)


def _endless(*_: object) -> float:
    print("measuring", flush=True)
    big = torch.ones(3000, 3000)
    while True:
        torch.linalg.multi_dot([big] * 200)


def _panic(*_: object) -> float:
    raise SystemExit(77)


if __name__ == "__main__":
    engine._STEP_AT_HAND_S = 0.3
    calibration.Calibration._time_forward = {"endless": _endless, "panic": _panic}[_HOW]  # type: ignore[method-assign]
    runpod.serverless.start(configure())
