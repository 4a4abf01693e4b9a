"""`single` in miniature: one sampler, few steps, one round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.jobs import single

Figures = Callable[[str], dict[str, Any]]


@pytest.fixture
def measured(model: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(single, "_SAMPLERS", ("DDIM",))
    monkeypatch.setattr(single, "_STEPS", 3)
    monkeypatch.setenv("MAX_ROWS", "2")  # less to measure at warm-up
    single.run(model, rounds=1)
    return figures("single")["samplers"]["DDIM"]


@pytest.mark.slow
def test_both_sides_draw_the_same_and_their_times_agree_with_one_another(measured: dict[str, Any]) -> None:
    assert measured["levels_apart"] < 0.1
    for side in ("worker", "pipeline"):
        figures = measured[side]
        stages = {stage: spread["median"] for stage, spread in figures["stages_s"].items()}
        assert list(stages) == ["validate", "text", "denoise", "decode", "encode", "base64", "return"]
        assert all(seconds > 0 for seconds in stages.values())
        assert figures["total_s"]["median"] == pytest.approx(sum(stages.values()))
        # Two of the three steps are followed by another.
        assert 2 * (figures["unet_s"]["median"] + figures["between_s"]["median"]) < stages["denoise"] * 1.001
        assert figures["overhead"]["median"] == pytest.approx(
            figures["between_s"]["median"] / figures["unet_s"]["median"]
        )
    ours, theirs = (measured[side]["total_s"]["median"] for side in ("worker", "pipeline"))
    assert measured["ratio"]["median"] == pytest.approx(ours / theirs)
