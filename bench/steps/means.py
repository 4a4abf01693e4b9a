"""What each means of drawing fast is worth here: the worker as it is, and with each left out or put in.

The worker is built as in production, in a process of its own for each variant and round, in turn; then one
forward of the UNet is timed for several numbers of rows, and one decode, on the engine's thread. The ratio of each
round to the worker as it is counts, because a noisy machine slows both.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.report import ratio_table, spread, write_json

__all__ = ["run"]

_ROOT = Path(__file__).resolve().parents[2]
_DEFAULT = "as it is by default"
# Variant → its environment. The first is what the worker does by itself.
_VARIANTS: dict[str, dict[str, str]] = {
    _DEFAULT: {},
    "CHANNELS_LAST=0": {"CHANNELS_LAST": "0"},
    "COMPILE=1": {"COMPILE": "1"},
}
_ON_CPU: dict[str, dict[str, str]] = {
    "KEEP_MEMORY=0": {"KEEP_MEMORY": "0"},
    "cores shared with the main thread": {"BENCH_SHARE_CORES": "1"},
}
_ON_CUDA: dict[str, dict[str, str]] = {
    "ATTENTION=xformers": {"ATTENTION": "xformers"},
    "CUDA_GRAPHS=1": {"CUDA_GRAPHS": "1"},
    "FP16_ACCUMULATION=1": {"FP16_ACCUMULATION": "1"},
    "CUDA_GRAPHS=1 COMPILE=1": {"CUDA_GRAPHS": "1", "COMPILE": "1"},
}
_ROWS = (2, 8, 16)
_REPEATS = 12


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    variants = {**_VARIANTS, **(_ON_CUDA if torch.cuda.is_available() else _ON_CPU)}
    if importlib.util.find_spec("xformers") is None:
        variants.pop("ATTENTION=xformers", None)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as cache:  # so that only the first round compiles
        for _ in range(rounds):
            for name, environment in variants.items():
                measured[name].append(_measure(model, {**environment, "COMPILE_CACHE_DIR": cache}))
    figures = {name: _figures(runs, measured[_DEFAULT]) for name, runs in measured.items()}
    ratio_table(
        f"means: milliseconds, median of {rounds} rounds, and the ratio to {_DEFAULT}",
        "the worker",
        figures,
    )
    print(f"written to {write_json('means', figures)}")


def _figures(runs: list[dict[str, float]], whole: list[dict[str, float]]) -> dict[str, Any]:
    return {
        what: {
            "ms": spread([run[what] for run in runs]),
            "ratio": spread([run[what] / all_[what] for run, all_ in zip(runs, whole, strict=True)]),
        }
        for what in runs[0]
    }


def _measure(model: Path, environment: dict[str, str]) -> dict[str, float]:
    """Milliseconds, by what was timed, in a fresh process."""
    result = subprocess.run(
        [sys.executable, "-m", "bench.steps.means"],
        cwd=_ROOT,
        env={
            **os.environ,
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


def _child() -> None:
    """Time forwards and a decode on the engine's thread, and print them."""
    if os.environ.get("BENCH_SHARE_CORES"):
        torch.randn(1000, 1000).exp().sum()  # from now on the main thread has a team of its own
    from sdworker.engine.device import time_call
    from sdworker.settings import load_settings
    from sdworker.startup import build_worker

    engine = build_worker(load_settings()).engine
    networks = engine.model

    def median_ms(call: Callable[[], object]) -> float:
        return 1000 * statistics.median(time_call(networks.device, call, _REPEATS))

    def measure() -> dict[str, float]:
        for rows in _ROWS:
            networks.prepare(rows)
        times = {
            f"{rows} rows": median_ms(partial(networks.denoise, networks.example_input(rows)))
            for rows in _ROWS
        }
        latents = torch.randn(1, networks.autoencoder.latent_channels, *networks.default_shape).to(
            networks.device
        )
        return {**times, "decode": median_ms(lambda: networks.autoencoder.decode(latents).pixels())}

    print(json.dumps(engine.call(measure).result()))


if __name__ == "__main__":
    _child()
