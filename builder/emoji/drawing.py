"""Pictures from prompts, many at a time, each from its own seed."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

STEPS = 25
GUIDANCE = 4.0


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 50,
) -> np.ndarray:
    """uint8 `[n, 128, 128, 3]`, drawn with DPM++ 2M Karras, which the pipeline is left with."""
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, use_karras_sigmas=True
    )
    drawn = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        images = pipeline(
            list(prompts[part]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds[part]],
            output_type="np",
        ).images
        drawn.append((images * 255).round().astype(np.uint8))
    return np.concatenate(drawn)
