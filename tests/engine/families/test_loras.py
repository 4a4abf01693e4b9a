"""LoRA files in all ways of writing, with convolutions, texts and unequal ranks and alphas: beside plain rows they
draw what the same differences do when they are added to the model's own files."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.lora import LoraUse, read_lora
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from tests.engine.conftest import load
from tests.engine.test_equals_diffusers import base as plain_base

CLOSE = 1  # levels
SCALE, TEXT_SCALE = 0.8, 0.5

base = partial(plain_base, steps=4)


class Layer(NamedTuple):
    """A layer that a file changes.

    Attributes:
        part, name: the network's folder, and the layer there.
        original: its name in the original implementation.
        rank, alpha: of what the file has for it.
    """

    part: str
    name: str
    original: str
    rank: int
    alpha: float


# The UNet of Stable Diffusion XL in miniature: two levels of two resnets, attention in the lower one.
XL = [
    Layer("unet", "down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2", 2, 1.0),
    Layer("unet", "down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op", 3, 3.0),
    Layer(
        "unet",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        4,
        2.0,
    ),
    Layer(
        "unet",
        "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
        "middle_block.1.transformer_blocks.1.ff.net.0.proj",
        1,
        1.0,
    ),
    Layer(
        "unet",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q",
        "output_blocks.1.1.transformer_blocks.0.attn1.to_q",
        2,
        8.0,
    ),
    Layer("unet", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv", 2, 1.0),
    Layer("unet", "add_embedding.linear_1", "label_emb.0.0", 4, 4.0),
    Layer("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj", "", 4, 2.0),
    Layer("text_encoder", "text_model.encoder.layers.2.mlp.fc1", "", 2, 2.0),
    Layer("text_encoder_2", "text_model.encoder.layers.1.self_attn.out_proj", "", 3, 1.0),
    Layer("text_encoder_2", "text_model.encoder.layers.3.mlp.fc2", "", 8, 4.0),
]
# The embedded model, a small Stable Diffusion 1.
SD = [
    Layer("unet", "conv_in", "input_blocks.0.0", 2, 1.0),
    Layer("unet", "mid_block.resnets.1.conv2", "middle_block.2.out_layers.3", 8, 2.0),
    Layer("unet", "mid_block.attentions.0.proj_in", "middle_block.1.proj_in", 4, 4.0),
    Layer(
        "unet",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
        "middle_block.1.transformer_blocks.0.attn2.to_v",
        16,
        4.0,
    ),
    Layer("unet", "time_embedding.linear_1", "time_embed.0", 3, 1.0),
    Layer("text_encoder", "text_model.encoder.layers.0.self_attn.k_proj", "", 4, 1.0),
    Layer("text_encoder", "text_model.encoder.layers.1.mlp.fc2", "", 32, 16.0),
]
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
FAMILIES: dict[str, tuple[type[StableDiffusion], list[Layer]]] = {
    "Stable Diffusion": (StableDiffusion, SD),
    "Stable Diffusion XL": (StableDiffusionXL, XL),
}


def weights_file(folder: Path, part: str) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    return file


def load_weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """By the layers' names as trainers know them."""
    prefix = "text_model." if part != "unet" else ""
    weights = load_file(weights_file(folder, part))
    return {
        f"{prefix}{name.removeprefix(prefix)}": one.float() if one.is_floating_point() else one
        for name, one in weights.items()
    }


def factors(layer: Layer, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up as kohya's tools have them, whose product times alpha / rank changes the weight noticeably."""
    generator = torch.Generator().manual_seed(layer.rank + len(layer.name))
    pointwise = (1, 1) if weight.ndim == 4 else ()
    down = torch.randn(layer.rank, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], layer.rank, *pointwise, generator=generator)
    return down, up * 0.5 * weight.std() * layer.rank**0.5 / layer.alpha


def key_of(layer: Layer, style: str) -> str:
    if style == "diffusers":
        return f"{layer.part}.{layer.name}"
    name = layer.original if style == "kohya, original blocks" and layer.original else layer.name
    return KOHYA[layer.part] + name.replace(".", "_")


def write(path: Path, folder: Path, layers: list[Layer], style: str) -> None:
    tensors = {}
    for layer in layers:
        weight = load_weights(folder, layer.part)[f"{layer.name}.weight"]
        down, up = factors(layer, weight)
        key = key_of(layer, style)
        if style == "diffusers":  # without alphas: they are in the factors
            tensors[f"{key}.lora_A.weight"] = down
            tensors[f"{key}.lora_B.weight"] = up * layer.alpha / layer.rank
        else:
            tensors[f"{key}.lora_down.weight"] = down
            tensors[f"{key}.lora_up.weight"] = up
            tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
    save_file(tensors, path)


def merge_by_hand(folder: Path, layers: list[Layer]) -> None:
    """Into the model's files."""
    for part in {layer.part for layer in layers}:
        weights = load_weights(folder, part)
        for layer in (one for one in layers if one.part == part):
            weight = weights[f"{layer.name}.weight"]
            down, up = factors(layer, weight)
            scale = (SCALE if part == "unet" else TEXT_SCALE) * layer.alpha / layer.rank
            difference = (up.flatten(1) @ down.flatten(1)).view_as(weight)
            weights[f"{layer.name}.weight"] = weight + scale * difference
        save_file(weights, weights_file(folder, part))


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[Layer], Engine, Engine]]:
    """A model's folder, the layers to change, an engine of it, and one with them changed."""
    kind, layers = FAMILIES[request.param]
    folder: Path = request.getfixturevalue("model" if kind is StableDiffusion else "xl_folder")
    changed = tmp_path_factory.mktemp("merged") / "model"
    shutil.copytree(folder, changed)
    merge_by_hand(changed, layers)
    engines = [Engine(load(kind, place), max_rows=16) for place in (folder, changed)]
    yield folder, layers, engines[0], engines[1]
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("style", ["kohya", "kohya, original blocks", "diffusers"])
async def test_beside_plain_rows_it_draws_what_the_merged_weights_draw(
    family: tuple[Path, list[Layer], Engine, Engine], style: str, tmp_path: Path
) -> None:
    folder, layers, engine, merged = family
    write(tmp_path / "lora.safetensors", folder, layers, style)
    weights = read_lora(tmp_path / "lora.safetensors", engine.model.adapters.directory)
    changed: dict[str, Any] = {"loras": (LoraUse(style, weights, SCALE, TEXT_SCALE),)}
    drawings = [base(), base(**changed), base(seeds=(1, 2), negative_prompt="", **changed), base(seeds=(9,))]
    drawn = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    for drawing, images in zip(drawings, drawn, strict=True):
        alone = engine if not drawing.loras else merged
        expected = await alone.draw(replace(drawing, loras=()))
        assert apart(images, expected) <= CLOSE, drawing
    assert apart(drawn[0], drawn[1]) > 5, "it does something"


def apart(some: list[np.ndarray], others: list[np.ndarray]) -> int:
    """The largest difference of two lists of images, in levels."""
    return max(
        int(np.abs(one.astype(int) - other.astype(int)).max())
        for one, other in zip(some, others, strict=True)
    )


def test_what_each_part_adds_is_seen(family: tuple[Path, list[Layer], Engine, Engine]) -> None:
    """Or the comparison would prove nothing of it."""
    folder, layers, _, _ = family
    parts = {layer.part for layer in layers}
    assert parts == {part.name for part in folder.iterdir() if part.name in KOHYA}
    assert len({layer.alpha / layer.rank for layer in layers}) > 3


async def test_text_encoders_alone_change_the_picture(
    family: tuple[Path, list[Layer], Engine, Engine], tmp_path: Path
) -> None:
    folder, layers, engine, _ = family
    write(tmp_path / "lora.safetensors", folder, layers, "kohya")
    weights = read_lora(tmp_path / "lora.safetensors", engine.model.adapters.directory)
    drawing: Drawing = base(loras=(LoraUse("text", weights, 0.0, 1.0),))
    assert apart(await engine.draw(drawing), await engine.draw(replace(drawing, loras=()))) > 2
