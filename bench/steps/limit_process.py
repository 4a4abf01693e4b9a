"""What `limit.py` times, in a process of its own: bare UNet forwards, or the steps of whole jobs.

One process does one of the two, because both compute on threads of their own (`bench/processes/own_process.py`).
"""

import sdworker.quick_start  # noqa: F401 - as handler.py does

# isort: split
import asyncio
import time
from functools import cache
from pathlib import Path

import torch

from bench.processes.timed_worker import TimedModel, build_timed_worker
from bench.steps.flops import flops_per_row
from bench.steps.forwards import StepTimes, step_times
from bench.steps.peak import Peak, find_peak
from sdworker.engine.networks.model import Model
from sdworker.engine.processor import reserve_cores
from sdworker.worker import Worker

__all__ = ["count_flops", "measure_peak", "time_forward", "time_steps"]

# Steps of a job: enough that most of them are of the whole batch, though it takes a few to have every job in.
_STEPS = 12
_SECONDS_A_ROUND = 0.3


def count_flops(model: str, width: int, height: int) -> int:
    """Of one row's forward at that size, in pixels."""
    scale = _load(model)[1].autoencoder.pixels_per_latent
    return flops_per_row(Path(model), width // scale, height // scale)


def measure_peak(model: str) -> Peak:
    """The peak of the device in the precision that the worker runs the model in."""
    _, networks, _ = _load(model)
    torch.set_num_threads(reserve_cores())
    return find_peak(networks.device, networks.dtype)


def time_forward(model: str, width: int, height: int, rows: int) -> float:
    """Seconds of a forward through `Model.denoise`, in a loop that does nothing else."""
    _, networks, _ = _load(model)
    torch.set_num_threads(reserve_cores())
    shape = _shape(networks, width, height)
    networks.prepare(rows, shape)  # as the warm-up does for the model's own size
    inputs = networks.example_input(rows, shape)
    count = 1
    Model.denoise(networks, inputs)  # that of `TimedModel` does more
    networks.settle()
    while True:
        began = time.perf_counter()
        for _ in range(count):
            Model.denoise(networks, inputs)
        networks.settle()
        seconds = time.perf_counter() - began
        if seconds > _SECONDS_A_ROUND / 2:
            return seconds / count
        count = max(2 * count, int(_SECONDS_A_ROUND / seconds * count))


def time_steps(model: str, width: int, height: int, jobs: int) -> StepTimes:
    """How the steps of so many guided jobs divide that run at once and so share them, two rows each."""
    worker, networks, runner = _load(model)
    worker.engine.call(lambda: networks.prepare(2 * jobs, _shape(networks, width, height))).result()
    networks.forwards.clear()

    async def run_all() -> None:
        await asyncio.gather(
            *(
                worker.run(
                    {
                        "id": f"bench {number}",
                        "input": {
                            "prompt": f"a red apple, number {number}",
                            "width": width,
                            "height": height,
                            "num_inference_steps": _STEPS,
                            "seed": number,
                        },
                    }
                )
                for number in range(jobs)
            )
        )

    runner.run(run_all())
    networks.settle()
    return step_times(networks.forwards, rows=2 * jobs)


def _shape(networks: TimedModel, width: int, height: int) -> tuple[int, int]:
    """Latent height and width."""
    return height // networks.autoencoder.pixels_per_latent, width // networks.autoencoder.pixels_per_latent


@cache
def _load(model: str) -> tuple[Worker, TimedModel, asyncio.Runner]:
    """A worker that batches whatever it is given."""
    worker, networks = build_timed_worker(model, max_rows=1024, max_pixels=2048 * 2048)
    return worker, networks, asyncio.Runner()
