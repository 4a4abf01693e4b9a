"""Correctness is defined by diffusers: every image is what its own pipeline draws for that seed."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.errors import UserError
from sdworker.samplers import SAMPLERS

from .conftest import CPU, RecordingModel, Reference

# The whole run, not one step: float32 rounding grows over the steps, most with stochastic samplers.
TOLERANCE = 5e-4


def base(**changes: Any) -> Drawing:
    plain = Drawing(
        prompt="a red apple",
        negative_prompt="blue",
        width=64,
        height=64,
        steps=5,
        guidance=4.0,
        sampler="DPM++ 2M Karras",
        seeds=(7,),
    )
    return replace(plain, **changes)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference of two latents, relative to the largest of them."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


async def compare(engine: Engine, reference: Reference, drawing: Drawing) -> None:
    """Draw, and hold every image of it against diffusers'."""
    networks = engine.model
    assert isinstance(networks, RecordingModel)
    images = await engine.draw(drawing)
    for image, seed in zip(images, drawing.seeds, strict=True):
        theirs = await asyncio.to_thread(reference.latents, drawing, seed)
        assert difference(networks.latents_of(image), theirs) < TOLERANCE, (drawing.sampler, seed)


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_every_sampler_draws_in_every_mode_what_diffusers_draws(
    engine: Engine, reference: Reference, mode: dict[str, Any], sampler: str
) -> None:
    drawing = base(sampler=sampler, **mode)
    if sampler == "IPNDM" and drawing.image is not None:
        with pytest.raises(UserError, match="cannot start from a picture"):
            await engine.draw(drawing)
        return
    await compare(engine, reference, drawing)


@pytest.mark.parametrize(
    "sampler",
    ["Euler a Karras", "DPM++ 2M Simple", "DDIM KL Optimal", "PNDM SGM Uniform", "LCM Turbo", "Heun Uniform",
     "DPM2 a DDIM", "UniPC Align Your Steps", "DPM++ SDE Beta", "LMS SGM Uniform"],
)  # fmt: skip
async def test_on_any_schedule_a_sampler_draws_what_diffusers_draws(
    engine: Engine, reference: Reference, mode: dict[str, Any], sampler: str
) -> None:
    await compare(engine, reference, base(sampler=sampler, **mode))


async def test_in_a_busy_mixed_batch_every_drawing_is_what_diffusers_draws_alone(
    engine: Engine, reference: Reference, picture: np.ndarray, mask: np.ndarray
) -> None:
    samplers = [name for name in SAMPLERS if name != "IPNDM"]
    modes: list[dict[str, Any]] = [
        {},
        {"image": picture, "strength": 0.6},
        {"image": picture, "mask": mask, "strength": 0.8},
        {"width": 96},
        {"guidance": 1.0},
        {"seeds": (3, 4)},
        {"image": picture, "mask": mask, "strength": 1.0, "seeds": (9, 10)},
    ]
    drawings = [
        base(sampler=sampler, steps=3 + i % 5, prompt=f"thing {i}", **modes[i % len(modes)])
        for i, sampler in enumerate(samplers)
    ]
    networks = engine.model
    assert isinstance(networks, RecordingModel)
    all_images = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    for drawing, images in zip(drawings, all_images, strict=True):
        for image, seed in zip(images, drawing.seeds, strict=True):
            theirs = reference.latents(drawing, seed)
            assert difference(networks.latents_of(image), theirs) < TOLERANCE, (drawing.sampler, seed)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1},
        {"steps": 2, "sampler": "Heun"},
        {"steps": 1, "sampler": "PNDM"},
        {"steps": 1, "sampler": "UniPC"},
        {"guidance": 0.0},
        {"guidance": 1.0},
        {"guidance": 30.0},
        {"negative_prompt": ""},
        {"prompt": "red " * 75},
        {"prompt": "🐶 naïve Ünïcode 狗"},
        {"width": 128, "height": 72},
        {"seeds": (2**63 - 2,)},
        {"seeds": (1, 2, 3)},
    ],
    ids=str,
)
async def test_odd_requests_draw_what_diffusers_draws(
    engine: Engine, reference: Reference, changes: dict[str, Any]
) -> None:
    await compare(engine, reference, base(**changes))


@pytest.mark.parametrize(
    "sampler", ["DPM++ 2M Karras", "DDIM", "Euler a", "Heun", "DPM2 a", "PNDM", "UniPC", "DPM++ SDE"]
)
@pytest.mark.parametrize(("steps", "strength"), [(100, 0.1), (10, 0.95), (7, 0.3), (4, 1.0)])
async def test_odd_strengths_draw_what_diffusers_draws(
    engine: Engine, reference: Reference, picture: np.ndarray, sampler: str, steps: int, strength: float
) -> None:
    await compare(engine, reference, base(sampler=sampler, steps=steps, strength=strength, image=picture))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0])
async def test_any_strength_and_step_count_draws_or_says_why_not(
    engine: Engine, picture: np.ndarray, mask: np.ndarray, sampler: str, strength: float
) -> None:
    drawing = base(sampler=sampler, steps=3, strength=strength, image=picture, mask=mask)
    try:
        images = await engine.draw(drawing)
    except UserError as error:
        assert sampler in str(error)  # noqa: PT017 - either way is right, a crash is not
    else:
        assert images[0].shape == (64, 64, 3)


class TestEmbeddedGuidance:
    """A latent consistency model's UNet is told the guidance scale instead of running twice."""

    @pytest.mark.parametrize("guidance", [8.0, 1.0])
    @pytest.mark.parametrize("sampler", ["LCM", "DPM++ 2M Karras"])
    async def test_draws_what_diffusers_draws(
        self, networks: RecordingModel, model: Path, sampler: str, guidance: float
    ) -> None:
        config = dict(networks._unet.config) | {"time_cond_proj_dim": 64}
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
        engine = Engine(with_unet(networks, unet), max_rows=16)
        drawings = [base(sampler=sampler, steps=4, guidance=guidance, seeds=(5, 6)), base(guidance=guidance)]
        await asyncio.gather(*(compare(engine, Reference(model, unet=unet), drawing) for drawing in drawings))
        engine.close()


def with_unet(networks: RecordingModel, unet: Any) -> RecordingModel:
    """The embedded model with another UNet."""
    return RecordingModel(
        tokenizer=networks._tokenizer,
        text_encoder=networks._prompts._text_encoder,
        unet=unet,
        vae=networks.autoencoder._vae,
        scheduler_config=networks.scheduler_config,
        device=CPU,
        dtype=torch.float32,
    )


class TestNativeInpainting:
    """A 9-channel UNet: the mask and the masked picture go into it, nothing is blended."""

    @pytest.fixture(scope="class")
    @classmethod
    def unet(cls, networks: RecordingModel) -> Any:
        config = dict(networks._unet.config) | {"in_channels": 9}
        torch.manual_seed(0)
        return diffusers.UNet2DConditionModel.from_config(config).eval().requires_grad_(False)

    @pytest.fixture(scope="class")
    @classmethod
    def native(cls, networks: RecordingModel, unet: Any) -> Engine:
        return Engine(with_unet(networks, unet), max_rows=16)

    @pytest.mark.parametrize("strength", [1.0, 0.6])
    @pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a"])
    async def test_draws_what_diffusers_draws(
        self,
        native: Engine,
        unet: Any,
        model: Any,
        picture: np.ndarray,
        mask: np.ndarray,
        strength: float,
        sampler: str,
    ) -> None:
        reference = Reference(model, unet=unet)
        drawing = base(image=picture, mask=mask, strength=strength, sampler=sampler, seeds=(5, 6))
        await compare(native, reference, drawing)

    @pytest.mark.parametrize("with_picture", [False, True])
    async def test_without_a_mask_it_repaints_everything(
        self, native: Engine, picture: np.ndarray, with_picture: bool
    ) -> None:
        drawing = base(image=picture if with_picture else None, strength=0.8)
        (image,) = await native.draw(drawing)
        assert image.shape == (64, 64, 3)
