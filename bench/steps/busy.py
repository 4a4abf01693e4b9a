"""What waiting costs a CPU's threads: on quiet cores, and beside a neighbour that keeps each core busy.

OpenMP's threads wait for one another some hundred times a forward. While they spin, the processor is theirs; where
another program wants it too, a thread spins for one that the system has put aside, and both are late. The worker
is built as in production, in a process of its own for each way of waiting and round, in turn; steps of a job of
one image and of one of four are timed, first alone and then beside the neighbours, those included in which the
worker finds out that fewer threads are quicker. All ratios are to the first way of the same round, alone: on quiet
cores they tell what a way costs, on busy ones what it saves.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.report import ratio_table, spread, write_json

__all__ = ["run"]

_ROOT = Path(__file__).resolve().parents[2]
_LIBGOMP = "as libgomp waits by itself"
# Way → its environment. The first is what the others are compared with.
_WAYS: dict[str, dict[str, str]] = {
    _LIBGOMP: {"GOMP_SPINCOUNT": "300000", "FEWER_THREADS": "0"},
    "the worker as it is": {},
    "FEWER_THREADS=0": {"FEWER_THREADS": "0"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
_INHERITED_NOT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "FEWER_THREADS")


def run(model: Path, rounds: int, ways: Mapping[str, dict[str, str]] = _WAYS) -> None:
    """Measure and report. On a GPU nothing of it matters, and nothing is measured."""
    if torch.cuda.is_available():
        print("busy: only CPUs are measured")
        return
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, environment in ways.items():
            measured[way].append(_measure(model, environment))
    base = measured[next(iter(ways))]
    figures = {way: _figures(runs, base) for way, runs in measured.items()}
    ratio_table(
        f"busy: milliseconds of a step, median of {rounds} rounds, and the ratio to {next(iter(ways))}, quiet",
        "way of waiting",
        figures,
    )
    print(f"written to {write_json('busy', figures)}")


def _figures(runs: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    return {
        what: {
            "ms": spread([run[what] for run in runs]),
            "ratio": spread(
                [
                    run[what] / quiet[f"{what.split(',')[0]}, quiet"]
                    for run, quiet in zip(runs, base, strict=True)
                ]
            ),
        }
        for what in runs[0]
    }


def _measure(model: Path, environment: dict[str, str]) -> dict[str, float]:
    """Milliseconds, by what was timed, in a fresh process."""
    inherited = {name: value for name, value in os.environ.items() if name not in _INHERITED_NOT}
    result = subprocess.run(
        [sys.executable, "-m", "bench.steps.busy_process"],
        cwd=_ROOT,
        env={
            **inherited,
            "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}",
            "MODEL_DIR": str(model.resolve()),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"the measured process failed:\n{result.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures
