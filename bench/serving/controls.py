"""Sixteen callers, half of whose jobs a ControlNet leads: here, and in a naive handler with diffusers' pipelines.

What the arithmetic allows is what this worker does for the same callers without ControlNets, over what a mean
job's forwards cost with them. All are warmed up and measured in turn, round by round, so that they have the same
machine. The naive handler takes a job a second at most, whatever it costs (the SDK's loop idles a second when its
one slot is full); on cores that others keep busy it does not get that far, and what is left of the ratio is what
sharing forwards gains.

Beside that: what led rows, previews and an upscale add to others' steps.
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

from bench.common import load_here
from bench.report import spread, table, write_json
from bench.serving.callers import Stretch, Submitter, call, until_idle
from bench.serving.contenders import NAIVE, OURS, contenders
from bench.standin import Platform
from bench.steps import controls, finish
from sdworker.model_place import own_size

__all__ = ["run"]

_CALLERS, _STEPS = 16, 25
_NAME = "edges"
_PLAIN = "plain"
# Seconds that are measured once every caller has had a job back, and how long to wait for that.
_WINDOW_S, _LIMIT_S = 6.0, {OURS: 15.0, NAIVE: 12.0}
# More would take minutes and hardly move the medians.
_MOST_ROUNDS = 3


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / _NAME
        controls.write_net(model, net)
        figures = {
            "steps": controls.measure(model, net, rounds),
            "beside_an_upscale": _beside_an_upscale(model),
            "served": asyncio.run(_serve(model.resolve(), net, min(rounds, _MOST_ROUNDS))),
        }
    controls.report(figures["steps"])
    _report_upscale(figures["beside_an_upscale"])
    _report(figures["served"])
    print(f"written to {write_json('controls', figures)}")


async def _serve(model: Path, net: Path, rounds: int) -> dict[str, Any]:
    width, height = own_size(model)
    led = {"controls": [{"model": _NAME, "image": _edges(width, height)}]}
    asked_by: dict[str, list[dict[str, Any]]] = {_PLAIN: [{}], OURS: [{}, led], NAIVE: [{}, led]}
    stretches: dict[str, list[Stretch]] = {name: [] for name in asked_by}
    async with contenders(
        model,
        naive="bench/serving/naive_controlnet.py",
        CONTROLNET_DIR=str(net.parent),
        CONTROLNET=str(net),
    ) as platforms:
        for platform in platforms.values():
            await _warm_up(platform, asked_by[OURS])
        for _ in range(rounds):
            for name, asked in asked_by.items():
                platform = platforms[NAIVE if name == NAIVE else OURS]
                stretch = await call(
                    platform,
                    _CALLERS,
                    [_STEPS],
                    window_s=_WINDOW_S,
                    limit_s=_LIMIT_S[NAIVE if name == NAIVE else OURS],
                    more=partial(next, itertools.cycle(asked)),
                )
                await until_idle(platform)
                stretches[name].append(stretch)
    rates = {name: [stretch.jobs_per_s for stretch in of_this] for name, of_this in stretches.items()}
    scale = 8
    mean_job = (1 + controls.flops_of_a_led_row(model, width // scale, height // scale)) / 2
    return {
        "callers": _CALLERS,
        "steps": _STEPS,
        "jobs_per_s": {name: spread(values) for name, values in rates.items()},
        "of_what_arithmetic_allows": spread(
            [ours / (plain / mean_job) for ours, plain in zip(rates[OURS], rates[_PLAIN], strict=True)]
        ),
        "ratio": spread([ours / naive for ours, naive in zip(rates[OURS], rates[NAIVE], strict=True)]),
    }


async def _warm_up(platform: Platform, asked: list[dict[str, Any]]) -> None:
    """A job of each kind: its ControlNet is loaded, and whatever else the first one pays for is paid."""
    submitter = Submitter(platform, partial(next, itertools.cycle(asked)))
    await submitter.until([submitter.submit(_STEPS) for _ in asked])


def _beside_an_upscale(model: Path) -> dict[str, float]:
    """What a long job's steps wait for while another's picture is enlarged, in milliseconds."""
    (found,) = asyncio.run(finish.measure_pauses(load_here(model), only="enlarged")).values()
    return found


def _report_upscale(figures: dict[str, float]) -> None:
    table(
        "controls: from a long job's step to its next while a picture is enlarged, ms",
        ("median", "longest", "longest tile"),
        [tuple(f"{value:.0f}" for value in figures.values())],
    )


def _report(figures: dict[str, Any]) -> None:
    def words(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"

    rates = figures["jobs_per_s"]
    table(
        f"controls: {_CALLERS} callers of {_STEPS} steps, half of their jobs led",
        ("plain jobs/s", "half led jobs/s", "of what arithmetic allows", "naive jobs/s", "ours / naive"),
        [
            (
                words(rates[_PLAIN]),
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
