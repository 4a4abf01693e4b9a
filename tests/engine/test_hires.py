"""A second pass is what the same two calls of diffusers' pipelines draw, alone and among others."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.stepping import Stepping
from sdworker.engine.tables import make_scheduler
from sdworker.engine.upscaling import Upscaler
from sdworker.larger import SecondPass, draw_twice
from sdworker.request.declaration import Hires
from sdworker.samplers import PAIRS

from .conftest import CPU, RecordingModel, Reference
from .test_equals_diffusers import base

EMOJI = Path(__file__).resolve().parents[2] / "models" / "upscalers" / "emoji-x2.safetensors"
FIRST = base(steps=4, seeds=(7, 8))
SIZE = (96, 96)


def second_pass(upscaler: str | Upscaler, **hires: Any) -> SecondPass:
    network = upscaler if isinstance(upscaler, Upscaler) else None
    name = upscaler if isinstance(upscaler, str) else upscaler.name
    return SecondPass(Hires(upscaler=name, **hires), SIZE, network)


def by_hand(reference: Reference, first: Drawing, seed: int, again: SecondPass) -> np.ndarray:
    """diffusers' text to image, what its user would do in between, and its image to image; uint8 [96, 96, 3]."""
    latents = reference.latents(first, seed)
    pipeline = reference._image
    name = again.hires.upscaler
    if name == "latent":
        image: Any = interpolate(latents, size=(12, 12), mode="bilinear")
    else:
        vae = reference._text.vae
        with torch.no_grad():
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
        (small,) = reference._text.image_processor.postprocess(decoded, output_type="pil")
        if again.upscaler is not None:
            pixels = torch.from_numpy(np.asarray(small).copy()).float().div(255).permute(2, 0, 1)[None]
            large = Upscaler.load(EMOJI, "it", device=CPU)._described(pixels)[0]
            small = Image.fromarray(large.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        image = small.resize(SIZE, Image.Resampling.LANCZOS)
    pipeline.scheduler = make_scheduler(PAIRS[first.sampler], reference.scheduler_config)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        prompt=first.prompt,
        negative_prompt=first.negative_prompt,
        image=image,
        num_inference_steps=again.hires.steps or first.steps,
        strength=again.hires.strength,
        guidance_scale=first.guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    return np.asarray(drawn.images[0])


def assert_same(drawn: list[np.ndarray], reference: Reference, first: Drawing, again: SecondPass) -> None:
    for image, seed in zip(drawn, first.seeds, strict=True):
        apart = np.abs(image.astype(int) - by_hand(reference, first, seed, again))
        assert apart.max() <= 1, (seed, apart.max())


KINDS = {
    "latent": lambda: second_pass("latent"),
    "lanczos": lambda: second_pass("lanczos", strength=0.4, steps=7),
    "network": lambda: second_pass(Upscaler.load(EMOJI, "emoji-x2", device=CPU), strength=0.5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a"])
async def test_it_draws_what_two_calls_of_diffusers_draw(
    engine: Engine, reference: Reference, kind: str, sampler: str
) -> None:
    first = replace(FIRST, sampler=sampler)
    again = KINDS[kind]()
    assert_same(await draw_twice(engine, first, again, None), reference, first, again)


async def test_among_others_too(engine: Engine, reference: Reference, picture: np.ndarray) -> None:
    jobs = [(replace(FIRST, seeds=(30 + i,)), KINDS[kind]()) for i, kind in enumerate([*KINDS, *KINDS])]
    others = [
        engine.draw(replace(FIRST, seeds=(i,), steps=9, image=picture if i % 2 else None, strength=0.7))
        for i in range(6)
    ]
    drawn, *_ = await asyncio.gather(
        asyncio.gather(*(draw_twice(engine, first, again, None) for first, again in jobs)), *others
    )
    for (first, again), images in zip(jobs, drawn, strict=True):
        assert_same(images, reference, first, again)


async def test_a_picture_is_drawn_again_too(engine: Engine, picture: np.ndarray) -> None:
    first = replace(FIRST, image=picture, strength=0.5, seeds=(3,))
    (image,) = await draw_twice(engine, first, KINDS["latent"](), None)
    assert image.shape == (96, 96, 3)


async def test_progress_counts_both_passes(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    again = second_pass("latent", steps=10, strength=0.5)
    await draw_twice(engine, FIRST, again, lambda *told: seen.append(told))
    assert seen == [(i, 9) for i in range(1, 10)]


async def test_what_could_never_be_drawn_is_refused_before_anything_is(networks: RecordingModel) -> None:
    engine = Engine(networks, max_rows=4, memory_bytes=100_000)
    drawn: list[Any] = []
    again = SecondPass(Hires(), (1024, 1024), None)
    with pytest.raises(EngineError, match=r"2 images of 1024x1024 .* more than"):
        await draw_twice(engine, replace(FIRST, sampler="Euler"), again, lambda *told: drawn.append(told))
    assert drawn == []
    engine.close()


async def test_the_second_pass_keeps_the_jobs_age(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And during the first, the policy knows what is still to come."""
    seen: list[tuple[float, float]] = []
    age = Stepping._age

    def noted(self: Stepping, chosen: Any) -> None:
        seen.extend((one.age, one.evaluations_left) for one in chosen)
        age(self, chosen)

    monkeypatch.setattr(Stepping, "_age", noted)
    await draw_twice(engine, FIRST, second_pass("latent", steps=4, strength=1.0), None)
    ages, left = zip(*seen, strict=True)
    assert list(ages) == sorted(set(ages))
    assert left == (13, 12, 11, 10, 4, 3, 2, 1)


async def test_one_that_is_cancelled_is_not_drawn_again(engine: Engine) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = replace(FIRST, steps=60)

    def on_step(_step: int, _steps: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.create_task(draw_twice(engine, first, second_pass("latent"), on_step))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine._board.generations
