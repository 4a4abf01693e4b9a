"""Their side of `single.py`, in a process of its own: `StableDiffusionPipeline.__call__`, Pillow, base64.

Placed as its users place it (fp16 on CUDA, fp32 on a CPU), its progress bar off.
"""

import base64
import json
from functools import cache
from io import BytesIO
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from bench.jobs.laps import Laps
from bench.steps.forwards import Forward, Instant, instant, step_times
from sdworker.engine.tables import make_scheduler
from sdworker.samplers import PAIRS

__all__ = ["draw"]


def draw(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """One image of what `given` asks for in the worker's words; answers as `single_worker.draw` does."""
    pipeline, scheduler_config = _load(model)
    pipeline.scheduler = make_scheduler(PAIRS[given["scheduler"]], scheduler_config)
    pipeline.forwards.clear()
    pipeline.laps.restart()
    (image,) = pipeline(
        prompt=given["prompt"],
        num_inference_steps=given["num_inference_steps"],
        guidance_scale=given["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(given["seed"]),
    ).images
    pipeline.laps.lap("decode")
    file = BytesIO()
    image.save(file, "PNG")
    pipeline.laps.lap("encode")
    text = base64.b64encode(file.getvalue()).decode("ascii")
    pipeline.laps.lap("base64")
    json.dumps([{"image": text, "seed": given["seed"]}])
    pipeline.laps.lap("return")
    steps = step_times(pipeline.forwards, rows=2)
    return {
        "image": text,
        "stages_s": pipeline.laps.seconds,
        "unet_s": steps.unet_s,
        "between_s": steps.between_s,
    }


class _Pipeline(StableDiffusionPipeline):
    """The pipeline itself, telling the time."""

    laps: Laps
    forwards: list[Forward]
    _began: Instant

    def watch(self) -> None:
        """Note from now on when each stage ends."""
        self.laps = Laps()
        self.forwards = []
        self.unet.register_forward_pre_hook(self._unet_begins)
        self.unet.register_forward_hook(self._unet_ends)
        self.vae.decoder.register_forward_pre_hook(self._decoder_begins)

    def check_inputs(self, *arguments: Any, **options: Any) -> None:
        super().check_inputs(*arguments, **options)
        self.laps.lap("validate")

    def encode_prompt(self, *arguments: Any, **options: Any) -> Any:
        embeddings = super().encode_prompt(*arguments, **options)
        self._settle()
        self.laps.lap("text")
        return embeddings

    def _unet_begins(self, *_: Any) -> None:
        self._began = instant(self.device)

    def _unet_ends(self, _unet: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
        self.forwards.append(Forward(len(inputs[0]), self._began, instant(self.device)))

    def _decoder_begins(self, *_: Any) -> None:
        self._settle()
        self.laps.lap("denoise")

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@cache
def _load(model: str) -> tuple[_Pipeline, Any]:
    """The pipeline and its model's own scheduler configuration."""
    for logs in (diffusers_logging, transformers_logging):
        logs.set_verbosity_error()
        logs.disable_progress_bar()
    cuda = torch.cuda.is_available()
    pipeline = _Pipeline.from_pretrained(
        model, dtype=torch.float16 if cuda else torch.float32, safety_checker=None
    ).to("cuda" if cuda else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.watch()
    return pipeline, pipeline.scheduler.config
