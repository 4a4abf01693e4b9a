"""A small worker made with the unmodified SDK. Its jobs say what becomes of them."""

import asyncio
import os
import sys
from typing import Any

import aiohttp
import runpod
from runpod.serverless.modules.rp_http import send_result

CONCURRENCY = int(os.environ.get("CONCURRENCY", "4"))


async def handler(job: dict[str, Any]) -> Any:
    """Do what the input says."""
    request = job["input"]
    for step in range(1, request.get("steps", 0) + 1):
        await asyncio.sleep(request.get("step_s", 0.05))
        output = {"step": step, "steps": request["steps"], "progress": step / request["steps"]}
        async with aiohttp.ClientSession(
            headers={"Authorization": os.environ["RUNPOD_AI_API_KEY"]}
        ) as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": output}, job)
    await asyncio.sleep(request.get("sleep_s", 0))
    if "fail" in request:
        return {"error": request["fail"]}
    if "refresh" in request:
        return {"error": "worn out", "refresh_worker": True}
    if "echo_job" in request:
        return job
    if "surrogate" in request:
        return "\ud800"
    image = request.get("image") or "x" * request.get("bytes", 10)
    return [{"image": image, "seed": request.get("seed", 1)}]


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
