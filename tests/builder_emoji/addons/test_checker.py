"""The checker in the repository, as plain diffusers sees it: it flags drawn weapons, and little else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builder.emoji import drawing
from builder.emoji.addons import checker
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor

MODELS = Path(__file__).parents[3] / "models"
FOLDER = MODELS / "checkers" / "weapons"
HARMLESS = ["dog", "red heart", "pizza", "house", "grinning face", "sunflower", "umbrella", "violin"]


def test_is_at_most_two_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 2_000_000


@pytest.mark.slow
def test_flags_weapons_and_nothing_else(pipeline: StableDiffusionPipeline) -> None:
    weapons = ["axe", "dagger", "crossed swords", "bomb", "bow and arrow", "water pistol"]
    names = weapons + HARMLESS
    found = checker.flags(FOLDER, drawing.draw(pipeline, names, range(len(names)), steps=20))
    assert sum(found[: len(weapons)]) >= len(weapons) - 1
    assert not any(found[len(weapons) :])


def test_a_plain_pipeline_blackens_what_it_flags() -> None:
    whole = StableDiffusionPipeline.from_pretrained(
        MODELS / "emoji",
        safety_checker=StableDiffusionSafetyChecker.from_pretrained(FOLDER, dtype=torch.float32),
        feature_extractor=CLIPImageProcessor.from_pretrained(FOLDER),
    )
    whole.set_progress_bar_config(disable=True)
    drawn = whole(
        ["bomb", "red heart"],
        num_inference_steps=20,
        guidance_scale=4,
        output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
    )
    assert drawn.nsfw_content_detected == [True, False]
    assert not drawn.images[0].any()
    assert drawn.images[1].any()


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_plain_colour_is_no_weapon(colour: int) -> None:
    assert checker.flags(FOLDER, np.full((1, 128, 128, 3), colour, np.uint8)) == [False]
