"""One job alone, from its input to its result, against diffusers' pipeline with Pillow's PNG and stdlib's base64.

The same weights, sampler, steps, guidance and seed. Each side has a process of its own (why: own_process.py),
asked in turn, several rounds after one that is not counted; the ratio of each round is what counts, because
a noisy machine slows both. Every round has a new prompt, or the worker would have its embedding at hand; that of
the empty negative prompt it has.

A step is one UNet forward and what lies between it and the next: the second as a share of the first is what the
engine costs.
"""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.processes.own_process import OwnProcess
from bench.report import spread, table, write_json

__all__ = ["run"]

_SAMPLERS = ("DPM++ 2M Karras", "Euler a", "UniPC", "DDIM")
_STEPS = 25
_STAGES = ("validate", "text", "denoise", "decode", "encode", "base64", "return")
_OURS, _THEIRS = "worker", "pipeline"


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    with (
        OwnProcess("bench.jobs.single_worker") as ours,
        OwnProcess("bench.jobs.single_pipeline") as theirs,
    ):
        sides = {_OURS: ours, _THEIRS: theirs}
        figures = {sampler: _measure(sides, str(model), sampler, rounds) for sampler in _SAMPLERS}
    _print_samplers(figures, rounds)
    _print_stages(figures[_SAMPLERS[0]], f"{_SAMPLERS[0]}, {rounds} rounds")
    print(f"written to {write_json('single', {'steps': _STEPS, 'samplers': figures})}")


def _measure(sides: dict[str, OwnProcess], model: str, sampler: str, rounds: int) -> dict[str, Any]:
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        given = {
            "prompt": f"a red apple, number {number}",
            "num_inference_steps": _STEPS,
            "guidance_scale": 5.0,
            "scheduler": sampler,
            "seed": 1,
        }
        for name, side in sides.items():
            answers[name].append(side.call("draw", model, given))
    apart = _levels_apart(answers[_OURS][0]["image"], answers[_THEIRS][0]["image"])
    counted = {name: of_side[1:] for name, of_side in answers.items()}
    totals = {name: [sum(one["stages_s"].values()) for one in runs] for name, runs in counted.items()}
    return {
        **{name: {"total_s": spread(totals[name]), **_summary(runs)} for name, runs in counted.items()},
        "ratio": spread([a / b for a, b in zip(totals[_OURS], totals[_THEIRS], strict=True)]),
        "levels_apart": apart,
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "stages_s": {stage: spread([run["stages_s"][stage] for run in runs]) for stage in _STAGES},
        "unet_s": spread([run["unet_s"] for run in runs]),
        "between_s": spread([run["between_s"] for run in runs]),
        "overhead": spread([run["between_s"] / run["unet_s"] for run in runs]),
    }


def _print_samplers(figures: dict[str, Any], rounds: int) -> None:
    table(
        f"single: one image in {_STEPS} steps with guidance, {rounds} rounds",
        (
            "sampler",
            "worker ms",
            "pipeline ms",
            "worker / pipeline",
            "UNet ms",
            "beside it, worker ms",
            "of the UNet",
            "beside it, pipeline ms",
            "levels of 255 apart",
        ),
        [
            (
                sampler,
                _ms(measured[_OURS]["total_s"]),
                _ms(measured[_THEIRS]["total_s"]),
                _range(measured["ratio"]),
                _ms(measured[_OURS]["unet_s"]),
                _ms(measured[_OURS]["between_s"]),
                _percent(measured[_OURS]["overhead"]),
                _ms(measured[_THEIRS]["between_s"]),
                f"{measured['levels_apart']:.3f}",
            )
            for sampler, measured in figures.items()
        ],
    )


def _print_stages(measured: dict[str, Any], title: str) -> None:
    ours, theirs = measured[_OURS]["stages_s"], measured[_THEIRS]["stages_s"]
    table(
        f"single: stage by stage, {title}",
        ("stage", "worker ms", "pipeline ms", "worker / pipeline"),
        [
            (
                stage,
                _ms(ours[stage]),
                _ms(theirs[stage]),
                f"{ours[stage]['median'] / theirs[stage]['median']:.2f}",
            )
            for stage in _STAGES
        ],
    )


def _levels_apart(ours: str, theirs: str) -> float:
    """Mean absolute difference of two images in base64: that both sides did the same work."""
    pixels = [np.asarray(Image.open(BytesIO(base64.b64decode(image))), float) for image in (ours, theirs)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def _ms(seconds: dict[str, float]) -> str:
    return f"{seconds['median'] * 1000:.2f}"


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['min']:.3f} … {ratio['max']:.3f})"


def _percent(share: dict[str, float]) -> str:
    return f"{share['median'] * 100:.1f} % ({share['min'] * 100:.1f} … {share['max'] * 100:.1f})"
