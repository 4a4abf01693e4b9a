"""`busy` in miniature: one way of waiting beside another, a few jobs each."""

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
def test_steps_are_timed_alone_against_the_first_way_and_beside_neighbours_against_themselves(
    model: Path, figures: Figures, capsys: pytest.CaptureFixture[str]
) -> None:
    busy.run(model, 1, {"one thread": {"OMP_NUM_THREADS": "1"}, "the worker as it is": {}})
    written = figures("busy")
    assert list(written)[1:] == ["one thread", "the worker as it is"]
    cells = written["one thread"]
    assert list(cells) == ["2 rows, quiet", "8 rows, quiet", "2 rows, busy", "8 rows, busy"]
    assert cells["2 rows, quiet"]["ratio"]["median"] == 1
    assert cells["2 rows, busy"]["ratio"]["median"] == pytest.approx(
        cells["2 rows, busy"]["ms"]["median"] / cells["2 rows, quiet"]["ms"]["median"]
    )
    verdicts = capsys.readouterr().out.partition("against what is aimed at")[2].splitlines()[2:6]
    assert [line.split()[-2] for line in verdicts] == ["1.03", "1.03", "2.50", "2.50"]
    assert all(line.split()[-1] in ("met", "missed") for line in verdicts)
