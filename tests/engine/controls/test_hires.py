"""Both passes of a job are led, by hints of their own sizes; each is what diffusers' own two calls draw."""

import asyncio
from dataclasses import replace

import diffusers
import numpy as np
import pytest
from PIL import Image

from sdworker.engine.controls import Control
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.larger import SecondPass, draw_twice
from sdworker.request.declaration import Hires
from tests.engine.passes import assert_same, drawn_again
from tests.engine.test_equals_diffusers import base

from .conftest import ControlledReference

SIZE = (96, 96)


@pytest.fixture
def large_hint() -> np.ndarray:
    """Lines as thin as those of the first pass's hint, in another size."""
    hint = np.zeros((96, 96, 3), np.uint8)
    hint[15:75, 30:32] = hint[45:47, 8:90] = 255
    return hint


def by_hand(
    reference: ControlledReference, first: Drawing, again: SecondPass, kind: type, *, seed: int
) -> np.ndarray:
    (control,) = again.controls
    pipeline = kind(
        **reference._components, controlnet=reference.nets[control.net.name], requires_safety_checker=False
    )
    return drawn_again(
        pipeline,
        reference._config,
        first,
        again,
        seed=seed,
        latents=reference.latents(first, seed),
        control_image=Image.fromarray(control.hint),
        controlnet_conditioning_scale=control.scale,
        guess_mode=control.guess_mode,
    )


@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
async def test_text_to_image(
    engine: Engine,
    controlled: ControlledReference,
    edges: Control,
    large_hint: np.ndarray,
    upscaler: str,
    guess_mode: bool,
) -> None:
    edges = replace(edges, scale=0.9, guess_mode=guess_mode)
    again = SecondPass(Hires(upscaler=upscaler), SIZE, None, controls=(replace(edges, hint=large_hint),))
    jobs = [base(steps=4, controls=(edges,), seeds=(seed,)) for seed in (3, 9)]
    drawn, *_ = await asyncio.gather(
        asyncio.gather(*(draw_twice(engine, job, again) for job in jobs)),
        engine.draw(base(seeds=(1,))),
        engine.draw(base(seeds=(2,), controls=(edges,), steps=9)),
    )
    kind = diffusers.StableDiffusionControlNetImg2ImgPipeline
    for job, (image,) in zip(jobs, drawn, strict=True):
        assert_same(image, by_hand(controlled, job, again, kind, seed=job.seeds[0]))


async def test_inpainting(
    engine: Engine,
    controlled: ControlledReference,
    edges: Control,
    large_hint: np.ndarray,
    picture: np.ndarray,
    mask: np.ndarray,
) -> None:
    first = base(steps=4, controls=(edges,), image=picture, mask=mask, strength=0.8)
    again = SecondPass(
        Hires(upscaler="lanczos"),
        SIZE,
        None,
        np.array(Image.fromarray(picture).resize(SIZE)),
        np.array(Image.fromarray(mask).resize(SIZE)),
        (replace(edges, hint=large_hint),),
    )
    (image,) = await draw_twice(engine, first, again)
    kind = diffusers.StableDiffusionControlNetInpaintPipeline
    assert_same(image, by_hand(controlled, first, again, kind, seed=7))
