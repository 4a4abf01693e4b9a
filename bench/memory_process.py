"""What `bench/memory.py` measures, in a process of its own: jobs through a worker, and the memory each takes."""

import sdworker.quick_start  # noqa: F401 - as handler.py does

# isort: split
import asyncio
import base64
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.timed_worker import TimedModel, build_timed_worker
from bench.usage import Usage, forget_peak, peak_bytes, used_bytes
from sdworker.engine.errors import EngineError
from sdworker.worker import Worker

__all__ = ["draw"]

# The history of a generation grows with its steps, by 64 KB an image and step at 512x512: next to nothing.
_STEPS = 3
_MOST_IMAGES = 64  # that one job may ask for


def draw(model: str, kind: str, width: int, height: int, images: int, limit_bytes: int | None) -> Usage:
    """Run one guided job of so many images, from its input to base64.

    Args:
        kind: txt2img, img2img or inpaint.
        limit_bytes: what a smaller card has, on CUDA; the same in every call of a process.
    """
    worker, networks, loaded_bytes = _load(model, limit_bytes)
    given = {
        "prompt": "a red apple",
        "num_outputs": images,
        "num_inference_steps": _STEPS,
        "width": width,
        "height": height,
        "seed": 1,
        **_pictures(kind, width, height),
    }
    networks.forwards.clear()
    forget_peak(networks.device)
    try:
        asyncio.run(worker.run({"id": "bench", "input": given}))
    except EngineError:
        fits = False
    else:
        fits = all(forward.rows == 2 * images for forward in networks.forwards)
    return Usage(fits, loaded_bytes, *peak_bytes(networks.device))


@cache
def _load(model: str, limit_bytes: int | None) -> tuple[Worker, TimedModel, int]:
    """A worker that has drawn nothing yet, not even to warm up, and its memory."""
    if limit_bytes is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total))
    worker, networks = build_timed_worker(
        model, max_rows=2 * _MOST_IMAGES, max_outputs=_MOST_IMAGES, max_pixels=2048 * 2048
    )
    return worker, networks, used_bytes(networks.device)


def _pictures(kind: str, width: int, height: int) -> dict[str, Any]:
    """What a job of a kind sends along: noise, and as its mask the right half."""
    if kind == "txt2img":
        return {}
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = {"init_image": _base64_png(noise), "prompt_strength": 0.8}
    if kind == "img2img":
        return image
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 255
    return {**image, "mask": _base64_png(mask)}


def _base64_png(pixels: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
