"""How much memory the worker takes: loaded, and at its peak by kind of job, picture size and rows.

Every job has guidance, so two rows an image, and goes all the way: pictures in, encode, steps, decode, files and
base64. On a CPU it is resident memory, and each job has a fresh process, because memory once used is not given
back. On CUDA it is the device's memory, in one process; and there it is tried what fits into a card of 24 GB, by
holding the process to so much. Memory hardly varies from round to round, so there is one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.jobs.usage import Usage
from bench.processes.own_process import OwnProcess
from bench.report import table, write_json
from bench.sizes import Size, sizes_of

__all__ = ["run"]

_ROWS = (2, 8, 16)
_KINDS = ("txt2img", "img2img", "inpaint")
# What is left of such a card's 24 GiB for torch's allocator, beside the context and whatever else there is.
_CARD_BYTES = 24 * 10**9
# Rows that such a card is expected to take at 1, 2.25 and 4 times the model's own area, and the most to try.
_EXPECTED_ROWS = (16, 8, 4)
_MOST_ROWS = 128


def run(
    model: Path,
    _rounds: int,
    sizes: Sequence[Size] | None = None,
    rows: Sequence[int] | None = None,
    mixed_jobs: int = 1000,
) -> None:
    """Measure and report.

    Args:
        sizes: of the pictures; None: the model's own and larger ones.
        rows: of a forward, even numbers; None: 2, 8 and 16. The jobs that start from a picture have the fewest.
        mixed_jobs: how many jobs of all kinds one process draws, to see whether its memory grows with them.
    """
    cuda = torch.cuda.is_available()
    plan = [
        (kind, size, count)
        for size in sizes or sizes_of(model)
        for kind in _KINDS
        for count in (rows or _ROWS)[: None if kind == "txt2img" else 1]
    ]
    cells = list(_measure(str(model), plan, fresh=not cuda))
    _print_cells(cells, "device memory" if cuda else "resident memory, a process each")
    figures: dict[str, Any] = {"device": "cuda" if cuda else "cpu", "cells": cells}
    figures["mixed"] = _measure_mixed(str(model), mixed_jobs)
    _print_mixed(figures["mixed"])
    if cuda:
        figures["card"] = _fill_card(str(model), sizes_of(model))
        _print_card(figures["card"])
    print(f"written to {write_json('memory', figures)}")


def _measure(model: str, plan: Sequence[tuple[str, Size, int]], *, fresh: bool) -> Iterator[dict[str, Any]]:
    """The cells of kind, size and rows, one after another, each in a `fresh` process or all in one."""
    for part in ([one] for one in plan) if fresh else [plan]:
        with OwnProcess("bench.jobs.memory_process") as process:
            for kind, size, rows in part:
                yield _cell(process, model, kind, size, rows)


def _measure_mixed(model: str, jobs: int) -> dict[str, Any]:
    """Memory after each tenth of so many mixed jobs, in one process, and once what is free has been given back."""
    with OwnProcess("bench.jobs.memory_process") as process:
        *used, left = process.call("draw_mixed", model, jobs, jobs // 10)
    return {"jobs": jobs, "used_bytes": used, "left_bytes": left}


def _print_mixed(mixed: dict[str, Any]) -> None:
    jobs, used = mixed["jobs"], mixed["used_bytes"]
    table(
        f"memory: after so many of {jobs} mixed jobs, MiB",
        ("loaded", *(jobs // 10 * tenth for tenth in range(1, len(used))), "given back"),
        [[_mib(count) for count in (*used, mixed["left_bytes"])]],
    )


def _cell(
    process: OwnProcess, model: str, kind: str, size: Size, rows: int, limit_bytes: int | None = None
) -> dict[str, Any]:
    usage: Usage = process.call("draw", model, kind, *size, rows // 2, limit_bytes)
    return {"kind": kind, "width": size[0], "height": size[1], "rows": rows, **asdict(usage)}


def _fill_card(model: str, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """What a smaller card takes: every kind of job with the rows expected of it, then as many rows as fit."""
    with OwnProcess("bench.jobs.memory_process") as process:
        cells = [
            _cell(process, model, kind, size, rows, _CARD_BYTES)
            for size, rows in zip(sizes, _EXPECTED_ROWS, strict=True)
            for kind in _KINDS
        ]
        for size, expected in zip(sizes, _EXPECTED_ROWS, strict=True):
            rows = expected
            while (rows := 2 * rows) <= _MOST_ROWS:
                cells.append(_cell(process, model, "inpaint", size, rows, _CARD_BYTES))
                if not cells[-1]["fits"]:
                    break
    return cells


def _print_cells(cells: Sequence[dict[str, Any]], what: str) -> None:
    table(
        f"memory: {what}, MiB",
        ("job", "size", "rows", "loaded", "peak", "reserved", "above loaded", "an image", "peak / loaded"),
        [
            (
                cell["kind"],
                f"{cell['width']}x{cell['height']}",
                cell["rows"],
                _mib(cell["loaded_bytes"]),
                _mib(cell["peak_bytes"]),
                _mib(cell["reserved_bytes"]),
                _mib(cell["peak_bytes"] - cell["loaded_bytes"]),
                _mib((cell["peak_bytes"] - cell["loaded_bytes"]) * 2 // cell["rows"]),
                f"{cell['peak_bytes'] / cell['loaded_bytes']:.2f}",
            )
            for cell in cells
        ],
    )


def _print_card(cells: Sequence[dict[str, Any]]) -> None:
    table(
        f"memory: in {_CARD_BYTES / 1e9:.0f} GB",
        ("job", "size", "images", "fits", "peak MiB", "reserved MiB"),
        [
            (
                cell["kind"],
                f"{cell['width']}x{cell['height']}",
                cell["rows"] // 2,
                "yes" if cell["fits"] else "no",
                _mib(cell["peak_bytes"]),
                _mib(cell["reserved_bytes"]),
            )
            for cell in cells
        ],
    )


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"
