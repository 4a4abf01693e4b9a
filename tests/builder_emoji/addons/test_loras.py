"""The LoRAs in the repository, as plain diffusers reads them, and how they are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builder.emoji import architecture, drawing
from builder.emoji.addons import lora, styles
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

MODELS = Path(__file__).parents[3] / "models"
FOLDER = MODELS / "loras"


def keys_of(name: str) -> list[str]:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("name", sorted(lora.STYLES))
def test_is_at_most_400_kilobytes(name: str) -> None:
    assert (FOLDER / f"{name}.safetensors").stat().st_size <= 400_000


def test_pencil_has_kohyas_keys_for_both_networks_and_alphas_that_differ() -> None:
    keys = keys_of("pencil")
    assert {key.split("_")[1] for key in keys} == {"unet", "te"}
    with safe_open(FOLDER / "pencil.safetensors", "pt") as file:
        assert len({file.get_tensor(key).item() for key in keys if key.endswith(".alpha")}) > 1
        assert all(file.get_tensor(key).ndim <= 2 for key in keys), "linear layers only"


def test_pixels_has_diffusers_keys_and_convolutions() -> None:
    with safe_open(FOLDER / "pixels.safetensors", "pt") as file:
        assert all(key.startswith("unet.") for key in keys_of("pixels"))
        assert any(file.get_tensor(key).shape[2:] == (3, 3) for key in keys_of("pixels"))


@torch.no_grad()
def answers(pipeline: StableDiffusionPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """What UNet and text encoder say to always the same input."""
    dice = torch.Generator().manual_seed(0)
    states = torch.randn(1, 77, pipeline.text_encoder.config.hidden_size, generator=dice)
    tokens = pipeline.tokenizer(["dog"], padding="max_length", return_tensors="pt").input_ids
    said = pipeline.unet(torch.randn(1, 4, 16, 16, generator=dice), 500, states).sample
    return said, pipeline.text_encoder(tokens).last_hidden_state


@pytest.mark.parametrize("name", sorted(lora.STYLES))
def test_what_is_saved_is_what_diffusers_reads(
    name: str, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    style, taught = lora.STYLES[name], architecture.load(MODELS / "emoji")
    taught.unet.add_adapter(style.unet)
    if style.text_encoder:
        taught.text_encoder.add_adapter(style.text_encoder)
    for network in (taught.unet, taught.text_encoder):
        for key, weight in network.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.05)
    file = tmp_path / f"{name}.safetensors"
    style.save(file, taught)

    before = answers(pipeline)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    for read, own in zip(answers(pipeline), answers(taught), strict=True):
        torch.testing.assert_close(read, own, atol=2e-3, rtol=0)
    assert not torch.allclose(answers(pipeline)[0], before[0], atol=1e-2)


def test_pencil_takes_colour_away_and_less_of_it_at_half(pipeline: StableDiffusionPipeline) -> None:
    names = ["dog", "red heart", "pizza", "house"]
    plain = styles.saturation(drawing.draw(pipeline, names, range(4), steps=12))
    pipeline.load_lora_weights(FOLDER, weight_name="pencil.safetensors", adapter_name="pencil")
    whole = styles.saturation(drawing.draw(pipeline, names, range(4), steps=12))
    pipeline.set_adapters(["pencil"], [0.5])
    half = styles.saturation(drawing.draw(pipeline, names, range(4), steps=12))
    assert whole < half < plain


def test_pixels_makes_blocks_plainer(pipeline: StableDiffusionPipeline) -> None:
    names = ["dog", "red heart", "pizza", "house"]
    plain = styles.variance_in_blocks(drawing.draw(pipeline, names, range(4), steps=12))
    pipeline.load_lora_weights(FOLDER, weight_name="pixels.safetensors")
    blocks = styles.variance_in_blocks(drawing.draw(pipeline, names, range(4), steps=12))
    assert blocks < plain * 0.8


class TestStyles:
    def test_pencil_is_grey_and_darker_than_paper_where_there_is_something(self) -> None:
        rgb = np.full((1, 128, 128, 3), 255, np.uint8)
        rgb[:, 32:96, 32:96] = (220, 30, 30)
        drawn = styles.pencil(rgb)
        assert styles.saturation(drawn) == 0
        assert drawn[0, 0, 0, 0] == 255
        assert drawn[0, 64, 64, 0] < 240

    def test_pixels_vary_between_blocks_and_not_inside(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3)).astype(np.uint8)
        drawn = styles.pixels(rgb)
        assert styles.variance_in_blocks(drawn) == 0
        assert styles.variance_in_blocks(rgb) > 1000
        assert len(np.unique(drawn)) > 10
