"""Previews of drawings on their way: what they show, and that they disturb nothing."""

import asyncio
import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdworker.engine.engine import Engine
from sdworker.engine.previews import ComingPreview
from sdworker.pictures.previews import MOST_CHARACTERS, encode_preview

from .conftest import RecordingModel
from .test_equals_diffusers import base


class Watching:
    """Wants every preview, or some."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.shown: list[tuple[np.ndarray, int, int]] = []

    def wanted(self) -> bool:
        return self.wants

    def show(self, preview: ComingPreview, evaluation: int, evaluations: int) -> None:
        self.shown.append((preview.pixels().copy(), evaluation, evaluations))


def small(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width // 8, height // 8), Image.Resampling.BOX))


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a", "DDIM", "Heun", "LCM", "DPM++ SDE"])
async def test_the_last_preview_is_the_picture_in_small(engine: Engine, sampler: str) -> None:
    watching = Watching()
    drawing = base(sampler=sampler, steps=8, width=128, height=128)
    (image,) = await engine.draw(drawing, previews=watching)
    pixels, evaluation, evaluations = watching.shown[-1]
    assert evaluation == evaluations - 1
    assert len(watching.shown) == evaluations - 1, "none of the last step: then the picture itself comes"
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - small(image)).mean() < 40
    assert np.corrcoef(pixels.ravel(), small(image).ravel())[0, 1] > 0.7


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_what_the_unet_believes_in_is_found_whatever_it_predicts(
    networks: RecordingModel, predicts: str
) -> None:
    from sdworker.engine.previews import Previewer

    previewer = Previewer(networks.autoencoder, {**networks.scheduler_config, "prediction_type": predicts})
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    signal = previewer._signal[400]
    alpha, sigma = signal**0.5, (1 - signal) ** 0.5
    answers = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}
    found = previewer.clean(alpha * clean + sigma * noise, answers[predicts], 400.2)
    assert torch.allclose(found, clean, atol=1e-4)


def test_the_map_is_the_same_at_every_fit(networks: RecordingModel) -> None:
    from sdworker.engine.previews import Previewer

    one, other = (Previewer(networks.autoencoder, networks.scheduler_config) for _ in range(2))
    assert torch.equal(one._map, other._map)
    assert torch.equal(one._black, other._black)


async def test_what_is_watched_comes_out_as_it_does_unwatched(
    engine: Engine, networks: RecordingModel, picture: np.ndarray, mask: np.ndarray
) -> None:
    drawing = base(sampler="Euler a", image=picture, mask=mask, strength=0.9, seeds=(1, 2))
    plain = [networks.latents_of(image) for image in await engine.draw(drawing)]
    watched = [networks.latents_of(i) for i in await engine.draw(drawing, previews=Watching())]
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))


async def test_nothing_is_made_that_is_not_wanted(engine: Engine) -> None:
    watching = Watching(wants=False)
    await engine.draw(base(), previews=watching)
    assert watching.shown == []


async def test_whoever_fails_to_look_disturbs_nobody(engine: Engine) -> None:
    class Clumsy(Watching):
        def show(self, *_: Any) -> None:
            self.shown.append((np.zeros(1), 0, 0))
            raise RuntimeError

    clumsy = Clumsy()
    drawn = await asyncio.gather(engine.draw(base(), previews=clumsy), engine.draw(base()))
    assert len(clumsy.shown) == 1
    assert np.array_equal(drawn[0][0], drawn[1][0])


async def test_the_kept_part_of_a_picture_is_there_from_the_beginning(
    engine: Engine, picture: np.ndarray, mask: np.ndarray
) -> None:
    watching = Watching()
    (image,) = await engine.draw(base(image=picture, mask=mask, strength=0.9), previews=watching)
    first, last = watching.shown[0][0].astype(int), watching.shown[-1][0]
    assert np.abs(first[:, :3] - last[:, :3]).max() <= 1
    assert image.shape == (64, 64, 3)


class TestJpeg:
    @pytest.mark.parametrize(
        ("height", "width"), [(16, 16), (8, 256), (64, 96), (128, 128), (1, 1), (300, 300)]
    )
    def test_it_is_small_whatever_it_shows(self, height: int, width: int) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        text = encode_preview(noise)
        assert len(text) <= MOST_CHARACTERS
        image = Image.open(BytesIO(base64.b64decode(text)))
        assert image.format == "JPEG"
        assert max(image.size) <= 256
