"""The naive handler (`naive_handler.py`) with diffusers' ControlNet pipeline for the jobs that want one.

Takes the ControlNet's folder from CONTROLNET; which one a job names does not matter.
"""

import base64
import os
from io import BytesIO
from typing import Any

import runpod
import torch
from diffusers import (
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_DTYPE = torch.float16 if _DEVICE == "cuda" else torch.float32
plain = StableDiffusionPipeline.from_pretrained(os.environ["MODEL_DIR"], dtype=_DTYPE, safety_checker=None)
plain.scheduler = DPMSolverMultistepScheduler.from_config(plain.scheduler.config, use_karras_sigmas=True)
plain.to(_DEVICE)
led = StableDiffusionControlNetPipeline(
    **plain.components,
    controlnet=ControlNetModel.from_pretrained(os.environ["CONTROLNET"], dtype=_DTYPE).to(_DEVICE),
    requires_safety_checker=False,
)


def handler(job: dict[str, Any]) -> dict[str, Any]:
    """One image of the prompt, as base64."""
    asked = job["input"]
    arguments = {
        "prompt": asked["prompt"],
        "num_inference_steps": asked["steps"],
        "guidance_scale": asked["guidance_scale"],
        "generator": torch.Generator("cpu").manual_seed(asked["seed"]),
    }
    if "controls" in asked:
        hint = Image.open(BytesIO(base64.b64decode(asked["controls"][0]["image"]))).convert("RGB")
        image = led(image=hint, **arguments).images[0]
    else:
        image = plain(**arguments).images[0]
    file = BytesIO()
    image.save(file, "PNG")
    return {"image": base64.b64encode(file.getvalue()).decode()}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
