"""`limit` in miniature, and its arithmetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.steps import limit
from bench.steps.flops import flops_per_row

Figures = Callable[[str], dict[str, Any]]


@pytest.mark.slow
def test_rates_and_shares_of_the_peak_agree_with_one_another(model: Path, figures: Figures) -> None:
    limit.run(model, rounds=1, sizes=[(128, 64)], rows=[4])
    written = figures("limit")
    assert written["peak"]["source"].startswith(("measured matmul", "stated"))
    assert written["peak"]["flops_per_s"] > 1e8
    (cell,) = written["cells"]
    assert (cell["width"], cell["height"], cell["rows"]) == (128, 64, 4)
    assert cell["flops"] == 4 * flops_per_row(model, 16, 8)
    for side in ("unet", "engine"):
        steps_per_s = cell[side]["steps_per_s"]["median"]
        assert steps_per_s > 0
        assert cell[side]["image_steps_per_s"] == pytest.approx(2 * steps_per_s)
        assert cell[side]["of_peak"] == pytest.approx(
            steps_per_s * cell["flops"] / written["peak"]["flops_per_s"]
        )
    assert cell["ratio"]["median"] == pytest.approx(
        cell["engine"]["steps_per_s"]["median"] / cell["unet"]["steps_per_s"]["median"]
    )


def test_without_attention_work_grows_as_the_area_and_with_it_faster(model: Path) -> None:
    once, twice = flops_per_row(model, 16, 16), flops_per_row(model, 32, 16)
    assert 2 * once * 0.99 < twice < 4 * once
