"""A drawing may have LoRAs and ControlNets: it comes out as with its LoRAs merged into the weights."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdworker.engine.controls import Control
from sdworker.engine.engine import Engine
from sdworker.engine.lora import LoraUse, merge, read_lora
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from tests.engine.conftest import RecordingModel, load
from tests.engine.test_equals_diffusers import base

PENCIL = Path(__file__).resolve().parents[3] / "models" / "loras" / "pencil.safetensors"


@pytest.mark.parametrize("guess_mode", [False, True])
async def test_loras_and_controls_of_one_drawing_both_count(
    model: Path, engine: Engine, networks: RecordingModel, edges: Control, guess_mode: bool
) -> None:
    weights = read_lora(PENCIL, networks.adapters.directory)
    drawing = base(
        controls=(replace(edges, guess_mode=guess_mode),), loras=(LoraUse("pencil", weights, 0.9, 0.9),)
    )
    others = [replace(drawing, loras=()), replace(drawing, controls=()), base()]
    drawn = await asyncio.gather(*(engine.draw(one) for one in (drawing, *others)))
    images = [image.astype(int) for (image,) in drawn]

    changed = load(StableDiffusion, model)
    for part, network in (("unet", changed._unet), ("text_encoder", changed._prompts._text_encoder)):
        if part in weights.parts:
            merge(network, weights.parts[part], 0.9)
    alone = Engine(changed, max_rows=8)
    (merged,) = await alone.draw(replace(drawing, loras=()))
    alone.close()
    assert np.abs(images[0] - merged).max() <= 1
    assert all(np.abs(images[0] - other).max() > 3 for other in images[1:])
