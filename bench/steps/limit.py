"""How near the device's limit the UNet and the engine come, by picture size and rows.

For each size and number of rows: a loop of bare forwards through `Model.denoise`; the steps of as many jobs at
once, through the worker; and the share of the device's peak that the forward's counted arithmetic makes of either.
An image with guidance is two rows, so a step of r rows is r/2 image-steps. The two loops have processes of their
own and are run in turn, several rounds after one that is not counted.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.processes.own_process import OwnProcess
from bench.report import spread, table, write_json
from bench.sizes import Size, sizes_of
from bench.steps.peak import Peak

__all__ = ["run"]

_ROWS = {"cuda": (2, 4, 8, 16, 32), "cpu": (2, 8)}


def run(
    model: Path, rounds: int, sizes: Sequence[Size] | None = None, rows: Sequence[int] | None = None
) -> None:
    """Measure and report.

    Args:
        sizes: of the pictures; None: the model's own and larger ones.
        rows: of a forward, even numbers; None: what suits the device.
    """
    sizes = sizes or sizes_of(model)
    rows = rows or _ROWS["cuda" if torch.cuda.is_available() else "cpu"]
    with OwnProcess("bench.steps.limit_process") as bare, OwnProcess("bench.steps.limit_process") as engine:
        peak: Peak = bare.call("measure_peak", str(model))
        cells = [
            _measure(bare, engine, str(model), size, count, peak, rounds) for size in sizes for count in rows
        ]
    table(
        f"limit: UNet forwards alone and the steps of jobs, {rounds} rounds; peak {peak.source}",
        (
            "size",
            "rows",
            "TFLOP",
            "UNet it/s",
            "image-steps/s",
            "of the peak",
            "engine it/s",
            "image-steps/s",
            "of the peak",
            "engine / UNet",
        ),
        [
            (
                f"{cell['width']}x{cell['height']}",
                cell["rows"],
                f"{cell['flops'] / 1e12:.3g}",
                *_cells(cell["unet"]),
                *_cells(cell["engine"]),
                f"{cell['ratio']['median']:.3f} ({cell['ratio']['min']:.3f} … {cell['ratio']['max']:.3f})",
            )
            for cell in cells
        ],
    )
    print(f"written to {write_json('limit', {'peak': asdict(peak), 'cells': cells})}")


def _measure(
    bare: OwnProcess, engine: OwnProcess, model: str, size: Size, rows: int, peak: Peak, rounds: int
) -> dict[str, Any]:
    flops = rows * bare.call("count_flops", model, *size)
    unet: list[float] = []
    steps: list[float] = []
    for number in range(rounds + 1):
        forward_s = bare.call("time_forward", model, *size, rows)
        step_s = engine.call("time_steps", model, *size, rows // 2).step_s
        if number > 0:
            unet.append(1 / forward_s)
            steps.append(1 / step_s)
    return {
        "width": size[0],
        "height": size[1],
        "rows": rows,
        "flops": flops,
        "unet": _summary(unet, rows, flops, peak),
        "engine": _summary(steps, rows, flops, peak),
        "ratio": spread([a / b for a, b in zip(steps, unet, strict=True)]),
    }


def _summary(per_s: list[float], rows: int, flops: int, peak: Peak) -> dict[str, Any]:
    """Of steps a second, one figure a round."""
    median = statistics.median(per_s)
    return {
        "steps_per_s": spread(per_s),
        "image_steps_per_s": median * rows / 2,
        "of_peak": median * flops / peak.flops_per_s,
    }


def _cells(summary: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{summary['steps_per_s']['median']:.2f}",
        f"{summary['image_steps_per_s']:.2f}",
        f"{summary['of_peak'] * 100:.1f} %",
    )
