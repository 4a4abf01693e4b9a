"""Second passes of Stable Diffusion XL, which is told the size of each: what diffusers' own two calls draw."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.larger import SecondPass, draw_twice
from sdworker.request.declaration import Hires
from tests.engine.conftest import run_pipeline
from tests.engine.passes import assert_same, drawn_again

from .conftest import XLReference
from .test_stable_diffusion_xl import base

SIZE = (96, 96)


def by_hand(reference: XLReference, first: Drawing, again: SecondPass) -> np.ndarray:
    pipeline = reference.pipeline
    arguments: dict[str, Any] = {"width": first.width, "height": first.height}
    if first.mask is not None and first.image is not None:
        pipeline = reference._mask
        arguments |= {
            "image": Image.fromarray(first.image),
            "mask_image": Image.fromarray(first.mask),
            "strength": first.strength,
        }
    latents = run_pipeline(pipeline, reference.scheduler_config, first, first.seeds[0], **arguments)
    return drawn_again(
        reference._image if again.mask is None else reference._mask,
        reference.scheduler_config,
        first,
        again,
        seed=first.seeds[0],
        latents=latents,
    )


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
@pytest.mark.parametrize("masked", [False, True])
async def test_alone_and_beside_others(
    xl_engine: Engine,
    xl_reference: XLReference,
    picture: np.ndarray,
    mask: np.ndarray,
    upscaler: str,
    masked: bool,
) -> None:
    first = base(negative_prompt="blue")
    large: dict[str, Any] = {}
    if masked:
        first = replace(first, image=picture, mask=mask, strength=0.8)
        large = {
            name: np.array(Image.fromarray(pixels).resize(SIZE))
            for name, pixels in (("image", picture), ("mask", mask))
        }
    again = SecondPass(Hires(upscaler=upscaler, strength=0.7), SIZE, None, **large)
    (alone,) = await draw_twice(xl_engine, first, again)
    theirs = by_hand(xl_reference, first, again)
    assert_same(alone, theirs)
    others: list[Any] = [draw_twice(xl_engine, replace(first, seeds=(1,)), again)]
    others += [xl_engine.draw(base(seeds=(2,), width=side, height=side)) for side in (64, 96)]
    (beside,), *_ = await asyncio.gather(draw_twice(xl_engine, first, again), *others)
    assert_same(beside, theirs)
