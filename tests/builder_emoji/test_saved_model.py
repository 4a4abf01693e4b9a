"""The model in the repository, as anyone's plain diffusers sees it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

MODEL = Path(__file__).parents[2] / "models" / "emoji"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_is_at_most_16_megabytes() -> None:
    parts = [file for file in MODEL.glob("*/*") if file.is_file()]
    assert sum(file.stat().st_size for file in parts) <= 16_000_000


def test_everything_that_is_embedded_is_at_most_28_megabytes() -> None:
    assert sum(file.stat().st_size for file in MODEL.parent.rglob("*") if file.is_file()) <= 28_000_000


def test_draws_128_pixels_by_default_and_the_same_for_the_same_seed(
    pipeline: StableDiffusionPipeline,
) -> None:
    first, again = (
        np.array(pipeline("dog", num_inference_steps=3, generator=torch.Generator().manual_seed(1)).images[0])
        for _ in range(2)
    )
    assert first.shape == (128, 128, 3)
    assert (first == again).all()


def test_has_stable_diffusions_noise_schedule(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.scheduler.config
    assert (config.beta_schedule, config.prediction_type, config.steps_offset) == (
        "scaled_linear",
        "epsilon",
        1,
    )
    assert DDIMScheduler.from_config(config).config.clip_sample is False


def test_says_nothing_of_the_machine_that_saved_it() -> None:
    for config in MODEL.glob("*/*config.json"):
        assert not {"_name_or_path", "is_local", "name_or_path"} & json.loads(config.read_text()).keys()


def test_asks_for_no_safety_checker() -> None:
    index = json.loads((MODEL / "model_index.json").read_text())
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert index["requires_safety_checker"] is False
