"""A second pass is what the same two calls of diffusers' pipelines draw, alone and among others."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.lora import LoraUse, merge, read_lora
from sdworker.engine.stepping import Stepping
from sdworker.engine.upscaling import Upscaler
from sdworker.larger import SecondPass, draw_twice
from sdworker.request.declaration import Hires

from .conftest import CPU, RecordingModel, Reference
from .passes import assert_same, drawn_again
from .test_equals_diffusers import base, with_unet

MODELS = Path(__file__).resolve().parents[2] / "models"
EMOJI = MODELS / "upscalers" / "emoji-x2.safetensors"
LORAS = MODELS / "loras"
FIRST = base(steps=4, seeds=(7, 8))
SIZE = (96, 96)


def second_pass(upscaler: str | Upscaler, **hires: Any) -> SecondPass:
    network = upscaler if isinstance(upscaler, Upscaler) else None
    name = upscaler if isinstance(upscaler, str) else upscaler.name
    return SecondPass(Hires(upscaler=name, **hires), SIZE, network)


def by_hand(reference: Reference, first: Drawing, seed: int, again: SecondPass) -> np.ndarray:
    """diffusers' two calls; uint8 [96, 96, 3]."""
    return drawn_again(
        reference._image if again.mask is None else reference._mask,
        reference.scheduler_config,
        first,
        again,
        seed=seed,
        latents=reference.latents(first, seed),
    )


def assert_all_same(drawn: list[np.ndarray], reference: Reference, first: Drawing, again: SecondPass) -> None:
    for image, seed in zip(drawn, first.seeds, strict=True):
        assert_same(image, by_hand(reference, first, seed, again))


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
    assert_all_same(await draw_twice(engine, first, again, None), reference, first, again)


@pytest.fixture
def masked(picture: np.ndarray, mask: np.ndarray) -> Drawing:
    return replace(FIRST, image=picture, mask=mask, strength=0.8)


@pytest.fixture
def large(picture: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The picture and the mask at the size of the second pass, each decoded anew."""
    return {
        "image": np.array(Image.fromarray(picture).resize(SIZE)),
        "mask": np.array(Image.fromarray(mask).resize(SIZE)),
    }


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_repainted_is_repainted_again_with_the_picture_itself_around_it(
    engine: Engine, reference: Reference, masked: Drawing, large: dict[str, Any], kind: str, strength: float
) -> None:
    again = replace(KINDS[kind](), **large)
    again = replace(again, hires=again.hires.model_copy(update={"strength": strength}))
    first = replace(masked, sampler="Euler a")
    assert_all_same(await draw_twice(engine, first, again, None), reference, first, again)


@pytest.mark.parametrize("kind", ["latent", "lanczos"])
async def test_an_inpainting_unet_repaints_again_too(
    networks: RecordingModel, model: Path, masked: Drawing, large: dict[str, Any], kind: str
) -> None:
    config = dict(networks._unet.config) | {"in_channels": 9}
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    engine = Engine(with_unet(networks, unet), max_rows=16)
    again = replace(KINDS[kind](), **large)
    drawn = await draw_twice(engine, masked, again, None)
    engine.close()
    assert_all_same(drawn, Reference(model, unet), masked, again)


async def test_both_passes_are_drawn_with_the_jobs_loras(
    engine: Engine, networks: RecordingModel, model: Path
) -> None:
    weights = read_lora(LORAS / "pencil.safetensors", networks.adapters.directory)
    lora = LoraUse("pencil", weights, 0.9, 0.0)
    reference = Reference(model)
    merge(reference._text.unet.requires_grad_(False), weights.parts["unet"], 0.9)
    first = replace(FIRST, loras=(lora,))
    for kind in ("latent", "lanczos"):
        again = KINDS[kind]()
        beside = asyncio.create_task(engine.draw(replace(FIRST, seeds=(1,), steps=9)))
        images = await draw_twice(engine, first, again, None)
        await beside
        assert_all_same(images, reference, first, again)


async def test_among_others_too(
    engine: Engine, reference: Reference, picture: np.ndarray, masked: Drawing, large: dict[str, Any]
) -> None:
    jobs = [(replace(FIRST, seeds=(30 + i,)), KINDS[kind]()) for i, kind in enumerate([*KINDS, *KINDS])]
    jobs += [(replace(masked, seeds=(40,)), replace(KINDS[kind](), **large)) for kind in KINDS]
    others = [
        engine.draw(replace(FIRST, seeds=(i,), steps=9, image=picture if i % 2 else None, strength=0.7))
        for i in range(6)
    ]
    drawn, *_ = await asyncio.gather(
        asyncio.gather(*(draw_twice(engine, first, again, None) for first, again in jobs)), *others
    )
    for (first, again), images in zip(jobs, drawn, strict=True):
        assert_all_same(images, reference, first, again)


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
