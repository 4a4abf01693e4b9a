"""Jobs with LoRAs of their own share forwards, and each comes out as with its LoRAs merged into the weights."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.lora import LoraUse, LoraWeights, merge, read_lora
from sdworker.engine.lora.rows import RowAdapters
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.unet_input import UNetInput
from tests.engine.conftest import load

LORAS = Path(__file__).resolve().parents[3] / "models" / "loras"
BASE = Drawing(
    prompt="a red heart",
    negative_prompt="blue",
    width=64,
    height=64,
    steps=16,
    guidance=5.0,
    sampler="Euler",
    seeds=(3,),
)
# Nothing but rounding differs between factors beside the weights and factors in them: one level of 255.
ROUNDING = 1


class CountingModel(StableDiffusion):
    """The real model; remembers the LoRAs of each forward's rows."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.forwards: list[tuple[tuple[Any, ...], ...]] = []

    def denoise(self, inputs: UNetInput) -> torch.Tensor:
        told = inputs.conditioning.adapters
        assert told is None or isinstance(told, RowAdapters)
        self.forwards.append(((),) * inputs.rows if told is None else told.uses)
        return super().denoise(inputs)


@pytest.fixture(scope="module")
def networks(model: Path) -> CountingModel:
    return load(CountingModel, model)


@pytest.fixture(scope="module")
def engine(networks: CountingModel) -> Iterator[Engine]:
    engine = Engine(networks, max_rows=32)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def weights(networks: CountingModel) -> dict[str, LoraWeights]:
    return {
        name: read_lora(LORAS / f"{name}.safetensors", networks.adapters.directory)
        for name in ("pencil", "pixels")
    }


async def merged(model: Path, drawing: Drawing) -> np.ndarray:
    """What the drawing gives with its LoRAs in the weights instead."""
    changed = load(StableDiffusion, model)
    for lora in drawing.loras:
        for part, network in (("unet", changed._unet), ("text_encoder", changed._prompts._text_encoder)):
            if part in lora.weights.parts:
                merge(network, lora.weights.parts[part], lora.strength(part))
    engine = Engine(changed, max_rows=8)
    try:
        (image,) = await engine.draw(replace(drawing, loras=()))
    finally:
        engine.close()
    return image.astype(int)


async def test_nine_jobs_with_and_without_loras_share_a_forward_and_are_each_as_with_theirs_merged(
    model: Path, engine: Engine, networks: CountingModel, weights: dict[str, LoraWeights]
) -> None:
    def use(name: str, scale: float = 1.0, text_scale: float | None = None) -> LoraUse:
        return LoraUse(name, weights[name], scale, scale if text_scale is None else text_scale)

    asked: list[tuple[LoraUse, ...]] = [
        (),
        (use("pencil"),),
        (use("pixels"),),
        (use("pencil", 0.8), use("pixels", 0.5)),
        (use("pencil", 0.5, 0.0),),
        (use("pencil", 0.0, 1.0),),
        (use("pixels", -1.0),),
        (use("pencil", 0.3), use("pencil", 0.4)),
        (),
    ]
    drawings = [replace(BASE, loras=loras, seeds=(i,)) for i, loras in enumerate(asked)]
    networks.forwards.clear()
    drawn = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    images = [image.astype(int) for (image,) in drawn]

    most = max(networks.forwards, key=len)
    assert len(most) == 2 * len(drawings)  # nine jobs, with guidance
    assert len(set(most)) == 7  # as many as change the UNet in different ways
    for drawing, image in zip(drawings, images, strict=True):
        assert np.abs(image - await merged(model, drawing)).max() <= ROUNDING, drawing.loras
    assert np.abs(images[0] - images[1]).max() > 20  # they do something
