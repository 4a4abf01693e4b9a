"""`busy` in miniature: one way of waiting beside another, a few forwards each."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.steps import busy

Figures = Callable[[str], dict[str, Any]]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is nothing to measure on a GPU")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="neighbours are bound to cores")
def test_forwards_are_timed_alone_and_beside_neighbours_against_the_first_way(
    model: Path, figures: Figures
) -> None:
    busy.run(model, 1, {"one thread": {"OMP_NUM_THREADS": "1"}, "as it is": {}})
    written = figures("busy")
    assert list(written)[1:] == ["one thread", "as it is"]
    cells = written["one thread"]
    assert list(cells) == ["2 rows, quiet", "8 rows, quiet", "2 rows, busy", "8 rows, busy"]
    assert cells["2 rows, quiet"]["ratio"]["median"] == 1
    assert cells["2 rows, busy"]["ratio"]["median"] == pytest.approx(
        cells["2 rows, busy"]["ms"]["median"] / cells["2 rows, quiet"]["ms"]["median"]
    )
