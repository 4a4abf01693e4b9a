"""Larger pictures, strip by strip: what the whole decode and encode give, in pieces and with less memory."""

import asyncio
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.networks import autoencoder, strips

from .conftest import RecordingModel
from .test_engine import LONG, PLAIN

T = TypeVar("T")
# Of 255; the whole picture's own rounding is 0.5.
LEVELS = 127.5
BUDGETS = (10**5, 10**7, 10**12)


def last_of(pieces: Generator[None, None, T]) -> tuple[T, int]:
    """What comes of all pieces, and how many there were."""
    count = 0
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value, count
        count += 1


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def vae(networks: RecordingModel) -> Any:
    return networks.autoencoder._vae


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", [(16, 16), (9, 21), (8, 3)])
def test_a_decode_in_strips_is_the_whole_decode(vae: Any, budget: int, size: tuple[int, int]) -> None:
    latents = noise(1, 4, *size)
    with torch.inference_mode():
        whole = vae.decode(latents).sample
        cut, pieces = last_of(strips.decode(vae, latents, budget))
    assert float((cut - whole).abs().max()) * LEVELS < 0.02
    assert pieces > 40 if budget == BUDGETS[0] else pieces >= 10


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", [(128, 128), (72, 168)])
def test_an_encode_in_strips_is_the_whole_encode(vae: Any, budget: int, size: tuple[int, int]) -> None:
    pixels = noise(1, 3, *size).clamp(-1, 1)
    with torch.inference_mode():
        whole = vae.encode(pixels).latent_dist.parameters
        cut, _ = last_of(strips.encode(vae, pixels, budget))
    assert float((cut - whole).abs().max()) < 1e-3


def test_the_autoencoders_of_stable_diffusion_can_be_cut(vae: Any) -> None:
    assert strips.can_be_cut(vae)


def test_a_layer_that_is_not_known_leaves_a_vae_whole(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae.decoder.up_blocks[0].resnets[0], "time_embedding_norm", "scale_shift")
    assert not strips.can_be_cut(vae)


class TestInTheEngine:
    @pytest.fixture
    def engine(self, networks: RecordingModel) -> Iterator[Engine]:
        engine = Engine(networks, max_rows=4)
        yield engine
        engine.close()

    @pytest.fixture
    def all_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(autoencoder, "_AT_ONCE", {"cpu": 0})
        monkeypatch.setattr(autoencoder, "_BUDGET", {"cpu": 10**7})

    async def draw_both(
        self, engine: Engine, drawing: Drawing, patch: pytest.MonkeyPatch
    ) -> list[np.ndarray]:
        (whole,) = await engine.draw(drawing)
        patch.setattr(autoencoder, "_AT_ONCE", {"cpu": 0})
        (cut,) = await engine.draw(drawing)
        return [whole.astype(int), cut.astype(int)]

    async def test_a_large_picture_is_what_it_would_be_as_a_small_one(
        self, engine: Engine, picture: np.ndarray, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawing = replace(PLAIN, image=picture, mask=mask, strength=0.6)
        whole, cut = await self.draw_both(engine, drawing, monkeypatch)
        assert np.abs(whole - cut).max() <= 1

    @pytest.mark.usefixtures("all_are_large")
    async def test_steps_of_others_go_on_between_its_strips(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        decode = strips.decode

        def seen(*given: Any) -> strips.Pieces:
            pieces = decode(*given)
            while True:
                order.append("piece")
                try:
                    next(pieces)
                except StopIteration as end:
                    return end.value
                yield

        monkeypatch.setattr(strips, "decode", seen)
        monkeypatch.setattr("sdworker.engine.finishing._SHARE", 0.0)  # one piece between two steps
        long = asyncio.create_task(engine.draw(LONG, lambda _step, _steps: order.append("step")))
        while not order:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.01)
        await engine.draw(PLAIN)
        assert not long.done()
        assert order.count("piece") > 40
        assert "piece piece" not in " ".join(order)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)

    async def test_where_memory_lacks_strips_become_thinner_and_the_picture_is_the_same(
        self, engine: Engine, networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (whole,) = await engine.draw(PLAIN)
        budgets: list[int] = []
        decode = strips.decode

        def small(vae: Any, latents: torch.Tensor, budget: int) -> strips.Pieces:
            budgets.append(budget)
            if len(budgets) < 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(vae, latents, budget)

        def never(_latents: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(strips, "decode", small)
        monkeypatch.setattr(networks.autoencoder, "decode", never)
        (cut,) = await engine.draw(PLAIN)
        assert np.abs(whole.astype(int) - cut.astype(int)).max() <= 1
        assert budgets[1] < budgets[0]

    async def test_a_decode_that_never_fits_fails_its_job_alone(
        self, engine: Engine, networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = networks.autoencoder.decode_in_pieces

        def small_only(latents: torch.Tensor, shortages: int = 0) -> Any:
            if latents.shape[3] > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents, shortages)

        monkeypatch.setattr(networks.autoencoder, "decode_in_pieces", small_only)
        results: list[Any] = await asyncio.gather(
            engine.draw(PLAIN), engine.draw(replace(PLAIN, width=96)), return_exceptions=True
        )
        good, bad = results
        assert isinstance(good, list)
        assert isinstance(bad, EngineError)
        assert "out of memory at 96x64" in str(bad)

    @pytest.mark.usefixtures("all_are_large")
    async def test_one_that_is_cancelled_meanwhile_is_decoded_no_further(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        pieces = 0

        def endless(*_: Any) -> strips.Pieces:
            nonlocal pieces
            while True:
                pieces += 1
                loop.call_soon_threadsafe(begun.set)
                yield

        with monkeypatch.context() as patched:
            patched.setattr(strips, "decode", endless)
            task = asyncio.create_task(engine.draw(PLAIN))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            done = pieces
        assert len(await engine.draw(PLAIN)) == 1
        assert pieces == done
