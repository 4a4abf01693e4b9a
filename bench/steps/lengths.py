"""Do texts of different lengths share a forward for what they cost at one length?

One forward over rows of 77 and of 231 tokens, tiled to 231, against the same number of rows all at 231, in
turn; and against two forwards, one for each length. Tiling the texts counts: it is part of a step.
"""

import statistics
from dataclasses import replace
from pathlib import Path

import torch

from bench.common import load_here
from bench.report import spread, table, write_json
from sdworker.engine.device import time_call
from sdworker.engine.unet_input import UNetInput

__all__ = ["run"]

_ROWS = (4, 8, 16)
_REPEATS = 3


def run(folder: Path, rounds: int) -> None:
    """Measure and report."""
    model = load_here(folder)
    figures, rows = {}, []
    with torch.inference_mode():
        for count in _ROWS:
            half = model.example_input(count // 2)
            short, long = half, _with_chunks(half, 3)

            def milliseconds(*batches: list[UNetInput]) -> float:
                times = time_call(
                    model.device, lambda: [model.denoise(UNetInput.cat(batch)) for batch in batches], _REPEATS
                )
                return min(times) * 1000

            measured = [
                (
                    milliseconds([short, long]),
                    milliseconds([long, long]),
                    milliseconds([short], [long]),
                )
                for _ in range(rounds)
            ]
            ratios = [mixed / alike for mixed, alike, _ in measured]
            apart = [mixed / two for mixed, _, two in measured]
            figures[f"{count} rows"] = {
                "ratio_to_one_length": spread(ratios),
                "ratio_to_two_forwards": spread(apart),
            }
            rows.append(
                (
                    count,
                    *(f"{statistics.median(times):.1f}" for times in zip(*measured, strict=True)),
                    f"{statistics.median(ratios):.2f}",
                    f"{statistics.median(apart):.2f}",
                )
            )
    table(
        f"lengths: a forward over texts of 77 and 231 tokens, {rounds} rounds",
        (
            "rows",
            "mixed ms",
            "all at 231 ms",
            "two forwards ms",
            "mixed / all at 231",
            "mixed / two forwards",
        ),
        rows,
    )
    write_json("lengths", figures)


def _with_chunks(inputs: UNetInput, chunks: int) -> UNetInput:
    """The same rows with texts of so many chunks."""
    told = inputs.conditioning
    return replace(inputs, conditioning=replace(told, text=told.text.repeat(1, chunks, 1)))
