"""Sixteen callers, half of whose jobs a ControlNet leads: here, and in a naive handler with diffusers' pipelines.

What the arithmetic allows is what this worker does for the same callers without ControlNets, over what a mean
job's forwards cost with them: both are measured in turn, so that they have the same machine.
"""

import asyncio
import base64
import itertools
import tempfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from bench.report import spread, table, write_json
from bench.serving.callers import Stretch, call, until_quiet
from bench.serving.contenders import NAIVE, OURS, contenders
from bench.steps import controls
from sdworker.model_place import own_size

__all__ = ["run"]

_CALLERS, _STEPS = 16, 25
_WINDOW_S, _LIMIT_S = 20.0, {OURS: 60.0, NAIVE: 25.0}
_NAME = "edges"


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / _NAME
        controls.write_net(model, net)
        figures = {
            "steps": controls.measure(model, net, rounds),
            "served": asyncio.run(_serve(model.resolve(), net, rounds)),
        }
    controls.report(figures["steps"])
    _report(figures["served"])
    print(f"written to {write_json('controls', figures)}")


async def _serve(model: Path, net: Path, rounds: int) -> dict[str, Any]:
    width, height = own_size(model)
    led = {"controls": [{"model": _NAME, "image": _edges(width, height)}]}
    plain: list[dict[str, Any]] = [{}]
    stretches: dict[str, list[Stretch]] = {"plain": [], OURS: [], NAIVE: []}
    async with contenders(
        model,
        naive="bench/serving/naive_controlnet.py",
        CONTROLNET_DIR=str(net.parent),
        CONTROLNET=str(net),
    ) as platforms:
        for _ in range(rounds):
            for name, contender in (("plain", OURS), (OURS, OURS), (NAIVE, NAIVE)):
                await until_quiet(platforms.values())
                asked = itertools.cycle(plain if name == "plain" else [*plain, led])
                stretch = await call(
                    platforms[contender],
                    _CALLERS,
                    [_STEPS],
                    window_s=_WINDOW_S,
                    limit_s=_LIMIT_S[contender],
                    more=partial(next, asked),
                )
                stretches[name].append(stretch)
    rates = {name: [stretch.jobs_per_s for stretch in of_this] for name, of_this in stretches.items()}
    scale = 8
    mean_job = (1 + controls.flops_of_a_led_row(model, width // scale, height // scale)) / 2
    return {
        "callers": _CALLERS,
        "steps": _STEPS,
        "jobs_per_s": {name: spread(values) for name, values in rates.items()},
        "of_what_arithmetic_allows": spread(
            [ours / (plain / mean_job) for ours, plain in zip(rates[OURS], rates["plain"], strict=True)]
        ),
        "ratio": spread([ours / naive for ours, naive in zip(rates[OURS], rates[NAIVE], strict=True)]),
    }


def _report(figures: dict[str, Any]) -> None:
    def words(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"

    rates = figures["jobs_per_s"]
    table(
        f"controls: {_CALLERS} callers of {_STEPS} steps, half of their jobs led",
        ("plain jobs/s", "half led jobs/s", "of what arithmetic allows", "naive jobs/s", "ours / naive"),
        [
            (
                words(rates["plain"]),
                words(rates[OURS]),
                words(figures["of_what_arithmetic_allows"]),
                words(rates[NAIVE]),
                words(figures["ratio"]),
            )
        ],
    )


def _edges(width: int, height: int) -> str:
    """A hint, in base64."""
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), outline="white", width=2)
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
