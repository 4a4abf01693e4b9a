"""The handler most tutorials show, and the shape of worker-stable_diffusion_v1 and worker-sdxl-turbo.

Everything is imported and loaded at module level; a function that is no coroutine takes one job at a time, calls
diffusers' pipeline as it comes, and encodes with Pillow's default PNG and the standard library's base64. It is
what `coldstart`, `served` and `fair` compare this worker with; today's diffusers, and one scheduler for all jobs
instead of a new one each, only flatter it. Takes the model's folder from MODEL_DIR. A job's prompt, steps,
guidance and seed are its own; the sampler is always DPM++ 2M Karras.
"""

import base64
import os
from io import BytesIO
from typing import Any

import runpod
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

print("mark: imports", flush=True)

_CUDA = torch.cuda.is_available()
pipeline = StableDiffusionPipeline.from_pretrained(
    os.environ["MODEL_DIR"], dtype=torch.float16 if _CUDA else torch.float32, safety_checker=None
)
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
    pipeline.scheduler.config, use_karras_sigmas=True
)
print("mark: weights", flush=True)
pipeline.to("cuda" if _CUDA else "cpu")
print("mark: placement", flush=True)


def handler(job: dict[str, Any]) -> dict[str, Any]:
    """One image of the prompt, as base64."""
    arguments = job["input"]
    generator = torch.Generator("cpu").manual_seed(arguments["seed"])
    image = pipeline(
        arguments["prompt"],
        num_inference_steps=arguments["steps"],
        guidance_scale=arguments["guidance_scale"],
        generator=generator,
    ).images[0]
    file = BytesIO()
    image.save(file, "PNG")
    return {"image": base64.b64encode(file.getvalue()).decode()}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
