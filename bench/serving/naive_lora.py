"""The naive handler (`naive_handler.py`) with LoRAs as diffusers' guide has them: loaded before a picture and
unloaded behind it. Takes their folder from LORA_DIR.
"""

import os
from pathlib import Path
from typing import Any

import runpod

from bench.serving import naive_handler

_FOLDER = Path(os.environ["LORA_DIR"])


def handler(job: dict[str, Any]) -> dict[str, Any]:
    """One image of the prompt with the job's LoRAs, as base64."""
    loras = job["input"].get("loras", ())
    for lora in loras:
        naive_handler.pipeline.load_lora_weights(_FOLDER / f"{lora['name']}.safetensors")
    image = naive_handler.handler(job)
    if loras:
        naive_handler.pipeline.unload_lora_weights()
    return image


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
