"""What `memory.py` measures, in a process of its own: jobs through a worker, and the memory each takes."""

import sdworker.quick_start  # noqa: F401 - as handler.py does

# isort: split
import asyncio
import base64
import random
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.jobs.usage import Usage, forget_peak, peak_bytes, used_bytes
from bench.processes.timed_worker import TimedModel, build_timed_worker
from sdworker.engine.errors import EngineError
from sdworker.engine.processor import give_back_memory
from sdworker.worker import Worker

__all__ = ["draw", "draw_mixed"]

# The history of a generation grows with its steps, by 64 KB an image and step at 512x512: next to nothing.
_STEPS = 3
_MOST_IMAGES = 64  # that one job may ask for
_CALLERS = 8


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


def draw_mixed(model: str, jobs: int, every: int) -> list[int]:
    """Run so many jobs of all kinds, sizes and numbers of images, a few at a time, as callers mix them.

    Returns:
        bytes used before them, after every so many of them, and once freed memory has been given back, which says
        what of it was still in use.
    """
    worker, networks, loaded_bytes = _load(model, None)
    used = [loaded_bytes]
    asyncio.run(_draw_mixed(worker, _mixed(jobs), every, lambda: used.append(used_bytes(networks.device))))
    worker.engine.call(lambda: give_back_memory(0)).result()
    return [*used, used_bytes(networks.device)]


async def _draw_mixed(
    worker: Worker, jobs: list[dict[str, Any]], every: int, on_some: Callable[[], None]
) -> None:
    coming = iter(enumerate(jobs, 1))

    async def caller() -> None:
        for number, given in coming:
            await worker.run({"id": f"bench-{number}", "input": given})
            if number % every == 0:
                on_some()

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))


def _mixed(jobs: int) -> list[dict[str, Any]]:
    """The same jobs every time."""
    draw = random.Random(0)
    return [
        {
            "prompt": "a red apple " * draw.randint(1, 6),
            "num_outputs": draw.choice((1, 1, 1, 2, 4)),
            "num_inference_steps": draw.randint(1, 4),
            "width": size[0],
            "height": size[1],
            "scheduler": draw.choice(("DPM++ 2M Karras", "Euler a", "DDIM")),
            "output_format": draw.choice(("png", "jpeg", "webp")),
            "seed": number,
            **_pictures(draw.choice(("txt2img", "txt2img", "img2img", "inpaint")), *size),
        }
        for number in range(jobs)
        for size in [(draw.randrange(64, 257, 8), draw.randrange(64, 257, 8))]
    ]


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
