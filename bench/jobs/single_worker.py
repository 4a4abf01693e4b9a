"""Our side of `single.py`, in a process of its own: jobs through the worker, timed stage by stage."""

import sdworker.quick_start  # as handler.py does

# isort: split
import asyncio
import json
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any
from unittest.mock import patch

import torch

import sdworker.startup
import sdworker.worker
from bench.jobs.laps import Laps
from bench.processes.timed_worker import TimedModel, build_timed_worker
from bench.steps.forwards import step_times
from sdworker.delivery import Delivery
from sdworker.engine.drawing import Drawing
from sdworker.engine.lora import NO_LORAS, Held
from sdworker.engine.networks.autoencoder import Autoencoder, ComingImage
from sdworker.engine.plan import Plan
from sdworker.engine.unet_input import Conditioning
from sdworker.pictures import encode_image
from sdworker.request import Contract, Request
from sdworker.worker import Worker

__all__ = ["draw"]

_LAPS = Laps()


def draw(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a job with the input `given`, one image with guidance.

    Returns:
        `image`, base64; `stages_s`, stage → seconds; `unet_s` and `between_s`, medians over its steps.
    """
    worker, networks, runner = _load(model)
    networks.forwards.clear()
    _LAPS.restart()
    output = runner.run(worker.run({"id": "bench", "input": given}))
    json.dumps(output)  # as the SDK posts it
    _LAPS.lap("return")
    steps = step_times(networks.forwards, rows=2)
    return {
        "image": output[0]["image"],
        "stages_s": _LAPS.seconds,
        "unet_s": steps.unet_s,
        "between_s": steps.between_s,
    }


class _Model(TimedModel):
    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.autoencoder = _Autoencoder(parts["vae"], device=self.device, dtype=self.dtype)

    def condition(
        self, drawing: Drawing, plan: Plan, held: Held = NO_LORAS
    ) -> Generator[None, None, Sequence[Conditioning]]:
        conditionings = yield from super().condition(drawing, plan, held)
        self.settle()
        _LAPS.lap("text")
        return conditionings


class _Autoencoder(Autoencoder):
    def decode(self, latents: torch.Tensor) -> ComingImage:
        if latents.is_cuda:
            torch.cuda.synchronize()
        _LAPS.lap("denoise")
        image = super().decode(latents)
        image.pixels()
        _LAPS.lap("decode")
        return image


class _Contract(Contract):
    def parse(self, given: object) -> Request:
        request = super().parse(given)
        _LAPS.lap("validate")
        return request


class _Delivery(Delivery):
    async def deliver(self, *arguments: Any, **options: Any) -> list[str]:
        delivered = await super().deliver(*arguments, **options)
        _LAPS.lap("base64")
        return delivered


def _encode_image(*arguments: Any, **options: Any) -> bytes:
    file = encode_image(*arguments, **options)
    _LAPS.lap("encode")
    return file


@cache
def _load(model: str) -> tuple[Worker, TimedModel, asyncio.Runner]:
    """Started as for the platform, warm-up and all, with one event loop for every job."""
    patch.multiple(sdworker.worker, Delivery=_Delivery, encode_image=_encode_image).start()
    patch.object(sdworker.startup, "Contract", _Contract).start()
    worker, networks = build_timed_worker(model, _Model)
    runner = asyncio.Runner()
    runner.run(worker.warm_up())
    runner.run(worker.engine.calibrate())  # or it would be done while the other side is measured
    return worker, networks, runner
