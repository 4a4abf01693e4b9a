"""The naive handler of LoRAs without a platform: one job after another, nothing between them."""

import os
import time
from functools import cache
from typing import Any

__all__ = ["jobs_per_s"]


@cache
def _handler(model: str, folder: str) -> Any:
    os.environ |= {"MODEL_DIR": model, "LORA_DIR": folder}
    from bench.serving import naive_lora

    naive_lora.naive_handler.pipeline.set_progress_bar_config(disable=True)
    return naive_lora.handler


def jobs_per_s(model: str, folder: str, names: list[str], steps: int) -> float:
    """Of jobs each with its own LoRA; one before them is not counted."""
    handler = _handler(model, folder)
    began = 0.0
    for number, name in enumerate([names[-1], *names]):
        if number == 1:
            began = time.perf_counter()
        asked = {
            "prompt": f"a red apple, number {number}",
            "steps": steps,
            "guidance_scale": 5.0,
            "seed": number,
            "loras": [{"name": name}],
        }
        handler({"id": str(number), "input": asked})
    return len(names) / (time.perf_counter() - began)
