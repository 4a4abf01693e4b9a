"""A small worker made with the unmodified SDK. Its jobs say what becomes of them."""

import asyncio
import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import runpod
from PIL import Image, ImageChops
from runpod.serverless.modules.rp_http import send_result

CONCURRENCY = int(os.environ.get("CONCURRENCY", "4"))


async def handler(job: dict[str, Any]) -> Any:
    """Do what the input says."""
    request = job["input"]
    steps = request.get("num_inference_steps", 0)
    for step in range(1, steps + 1):
        await asyncio.sleep(request.get("step_s", 0.1))
        output = {"step": step, "steps": steps, "progress": step / steps}
        if request.get("previews"):
            output["preview"] = picture(step, "JPEG")
        async with aiohttp.ClientSession(
            headers={"Authorization": os.environ["RUNPOD_AI_API_KEY"]}
        ) as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": output}, job)
    await asyncio.sleep(request.get("sleep_s", 0))
    while "until" in request and not Path(request["until"]).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)
    if "fail" in request:
        return {"error": request["fail"]}
    if "refresh" in request:
        return {"error": "worn out", "refresh_worker": True}
    if "echo_job" in request:
        return job
    if "surrogate" in request:
        return "\ud800"
    if "draw" in request.get("prompt", ""):
        seed = request.get("seed", 40264)
        return [{"image": picture(seed + n), "seed": seed + n} for n in range(request.get("num_outputs", 1))]
    image = request.get("image") or "x" * request.get("bytes", 10)
    return [{"image": image, "seed": request.get("seed", 1)}]


def picture(seed: int, format: str = "PNG") -> str:
    """A small picture that only its seed decides, as base64."""
    image = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    image.putpixel((0, 0), (seed % 256, 0, 0))
    tinted = ImageChops.multiply(image, Image.new("RGB", image.size, (seed * 37 % 256, seed * 91 % 256, 200)))
    buffer = io.BytesIO()
    tinted.save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()


async def streamer(job: dict[str, Any]) -> Any:
    """Yield what the input says, letter by letter."""
    for letter in job["input"]["prompt"]:
        await asyncio.sleep(0.05)
        yield letter


if __name__ == "__main__":
    config: dict[str, Any] = {"handler": handler, "concurrency_modifier": lambda current: CONCURRENCY}
    if "--stream" in sys.argv:
        sys.argv.remove("--stream")
        config |= {"handler": streamer, "return_aggregate_stream": True}
    runpod.serverless.start(config)
