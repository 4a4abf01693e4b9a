"""How every bench reports: a table on the terminal, the same figures as JSON, the machine named."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine", "ratio_table", "spread", "table", "write_json"]

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and largest of some measurements."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def ratio_table(title: str, first: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was measured in several ways: milliseconds, and the ratio with its least and largest.

    Args:
        first: what the ways are, for the header.
        figures: way → what was timed → `ms` and `ratio`, each a `spread`.
    """
    what = list(next(iter(figures.values())))
    rows = [
        (
            way,
            *(
                f"{of[one]['ms']['median']:.1f} ({of[one]['ratio']['min']:.2f} … "
                f"{of[one]['ratio']['median']:.2f} … {of[one]['ratio']['max']:.2f})"
                for one in what
            ),
        )
        for way, of in figures.items()
    ]
    table(title, (first, *what), rows)


def write_json(name: str, figures: dict[str, Any]) -> Path:
    """Write a bench's figures, with the machine, to bench/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    return path


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
