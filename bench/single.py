"""One job alone, against `StableDiffusionPipeline.__call__` on the same weights, sampler, steps and seed.

Both run in this process, in turn, several rounds; the ratio of each round is what counts, because a noisy
machine slows both.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.report import spread, table, write_json
from sdworker.engine.engine import Engine
from sdworker.engine.generation import Drawing
from sdworker.engine.networks import Networks
from sdworker.engine.samplers import SAMPLERS
from sdworker.engine.tables import make_scheduler

__all__ = ["run"]

_SAMPLERS = ("DPM++ 2M Karras", "Euler a", "UniPC", "DDIM")
_STEPS = 25


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    networks = Networks.load(model, device=device, dtype=dtype)
    engine = Engine(networks, max_rows=16)
    pipeline = _load_pipeline(model, device, dtype)
    width, height = networks.default_size
    figures: dict[str, Any] = {}
    rows = []
    for sampler in _SAMPLERS:
        drawing = Drawing(
            prompt="a red apple",
            negative_prompt="",
            width=width,
            height=height,
            steps=_STEPS,
            guidance=5.0,
            sampler=sampler,
            seeds=(1,),
        )
        ours, theirs = _measure(engine, pipeline, drawing, rounds)
        ratios = spread([a / b for a, b in zip(ours, theirs, strict=True)])
        figures[sampler] = {"ours_s": spread(ours), "pipeline_s": spread(theirs), "ratio": ratios}
        rows.append(
            (
                sampler,
                f"{spread(ours)['median'] * 1000:.0f}",
                f"{spread(theirs)['median'] * 1000:.0f}",
                f"{ratios['median']:.2f} ({ratios['min']:.2f} … {ratios['max']:.2f})",
            )
        )
    engine.close()
    table(
        f"single: one {width}x{height} image, {_STEPS} steps with guidance, {rounds} rounds",
        ("sampler", "engine ms", "pipeline ms", "engine / pipeline"),
        rows,
    )
    print(f"written to {write_json('single', figures)}")


def _load_pipeline(model: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=dtype, safety_checker=None).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _measure(engine: Engine, pipeline: Any, drawing: Drawing, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, ours and the pipeline's, taken in turn after a warm-up."""
    pipeline.scheduler = make_scheduler(SAMPLERS[drawing.sampler], engine.networks.scheduler_config)

    def ours() -> None:
        asyncio.run(_draw(engine, drawing))

    def theirs() -> None:
        pipeline(
            prompt=drawing.prompt,
            width=drawing.width,
            height=drawing.height,
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            generator=torch.Generator("cpu").manual_seed(drawing.seeds[0]),
            output_type="np",
        )

    for warm_up in (ours, theirs):
        warm_up()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return times


async def _draw(engine: Engine, drawing: Drawing) -> None:
    await engine.draw(replace(drawing))
