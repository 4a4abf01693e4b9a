"""The naive side of `loras`: one pipeline, a LoRA loaded before each picture and unloaded behind it."""

import time
from collections.abc import Sequence

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

__all__ = ["jobs_per_s"]


def jobs_per_s(folder: str, files: Sequence[str], steps: int) -> float:
    """Of one job after another, each with its own file; the first is not counted."""
    cuda = torch.cuda.is_available()
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float16 if cuda else torch.float32, safety_checker=None
    )
    pipeline.to("cuda" if cuda else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, use_karras_sigmas=True
    )
    began = 0.0
    for number, file in enumerate(files):
        if number == 1:
            began = time.perf_counter()
        pipeline.load_lora_weights(file)
        generator = torch.Generator("cpu").manual_seed(number)
        pipeline(
            f"a red apple, number {number}",
            num_inference_steps=steps,
            guidance_scale=5.0,
            generator=generator,
        )
        pipeline.unload_lora_weights()
    return (len(files) - 1) / (time.perf_counter() - began)
