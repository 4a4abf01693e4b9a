"""Several models in one engine: who is loaded, who makes room, and that a load holds up nobody."""

import asyncio
import gc
import shutil
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.random_model import TINY_SDXL, write_random_model
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.families import load_model, weights_bytes
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.networks.sharing import SharedWeights
from sdworker.engine.pool import ModelPool, Pooled
from sdworker.engine.unet_input import UNetInput
from sdworker.errors import UserError

from .conftest import CPU

ONE = 100  # what a model weighs in these tests
PLAIN = Drawing(
    prompt="a red apple",
    negative_prompt="",
    width=64,
    height=64,
    steps=3,
    guidance=4.0,
    sampler="Euler",
    seeds=(7,),
)


class Bench:
    """A pool over the embedded model under several names, and what was loaded when."""

    def __init__(self, model: Path, names: str, *, room: int | None, **options: Any) -> None:
        self.model = model
        self.loads: list[str] = []
        self.before_load: Callable[[str], None] = lambda name: None
        self.loading = Loading(CPU, torch.float32)
        self.engine = Engine(load_model(model, self.loading), max_rows=8)
        pooled = [Pooled(name, ONE, partial(self.load, name)) for name in names]
        budget = None if room is None else room * ONE
        self.pool = ModelPool(self.engine, pooled, budget_bytes=budget, **options)

    def load(self, name: str) -> Model:
        self.before_load(name)
        self.loads.append(name)
        return load_model(self.model, self.loading)

    async def draw(self, name: str | None, drawing: Drawing = PLAIN) -> np.ndarray:
        async with self.pool.use(name) as model:
            (image,) = await self.engine.draw(drawing, model=model)
        return image

    def close(self) -> None:
        self.pool.close()
        self.engine.close(finish=False)


@pytest.fixture
async def two(model: Path) -> AsyncIterator[Bench]:
    """Two models of which one fits."""
    bench = Bench(model, "ab", room=1)
    yield bench
    bench.close()


@pytest.fixture
async def three(model: Path) -> AsyncIterator[Bench]:
    """Three models of which two fit."""
    bench = Bench(model, "abc", room=2)
    yield bench
    bench.close()


async def test_a_model_is_loaded_when_it_is_first_asked_for_and_stays(three: Bench) -> None:
    images = [await three.draw(name) for name in ("b", None, "b", "a")]
    assert three.loads == ["b"]
    assert three.pool.loaded == ["b", "a"]
    for image in images[1:]:
        assert np.array_equal(image, images[0])  # they are one model


async def test_the_one_used_longest_ago_makes_room(three: Bench) -> None:
    for name in ("a", "b", "a", "c"):
        await three.draw(name)
    assert three.pool.loaded == ["a", "c"]
    await three.draw("b")
    assert three.pool.loaded == ["c", "b"]
    await three.draw(None)
    assert three.pool.loaded == ["b", "a"]


async def test_two_jobs_that_want_two_models_when_one_fits_are_both_drawn(two: Bench) -> None:
    images = await asyncio.gather(*(two.draw(name) for name in "abab"))
    assert len(two.pool.loaded) == 1
    for image in images[1:]:
        assert np.array_equal(image, images[0])


async def test_one_who_waits_for_room_does_not_wait_for_ever(model: Path) -> None:
    """Though there is always somebody who draws with the model that is there."""
    now = [0.0]
    bench = Bench(model, "ab", room=1, clock=lambda: now[0])
    try:
        drawn = {"a": 0, "b": 0}

        async def busy() -> None:
            while not drawn["b"]:
                await bench.draw("a")
                drawn["a"] += 1
                now[0] += 0.5

        async def other() -> None:
            await bench.draw("b")
            drawn["b"] += 1

        async with asyncio.timeout(180):
            await asyncio.gather(busy(), busy(), other())
        assert bench.loads[0] == "b"
        assert 3 <= drawn["a"] <= 12
    finally:
        bench.close()


async def test_a_load_holds_up_nobody_who_draws(three: Bench) -> None:
    """Steps are taken while a load lasts, which here does not end before some were."""
    loop, stepped, halfway = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    done: list[int] = []

    def on_step(step: int, _steps: int) -> None:
        done.append(step)
        if len(done) >= 5 and three.loads == []:
            loop.call_soon_threadsafe(stepped.set)

    def wait_for_steps(_name: str) -> None:
        loop.call_soon_threadsafe(halfway.set)
        asyncio.run_coroutine_threadsafe(stepped.wait(), loop).result(60)

    three.before_load = wait_for_steps
    async with three.pool.use("a") as first:
        coming = asyncio.create_task(three.draw("b"))
        await halfway.wait()
        assert three.loads == []
        drawing = Drawing(**{**vars(PLAIN), "steps": 20})
        await three.engine.draw(drawing, on_step, model=first)
        await coming
    assert three.loads == ["b"]


async def test_a_switch_to_a_model_that_is_there_costs_no_step(
    three: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine does for a job behind one of another model is what it does for one behind its own's."""
    events: list[str] = []
    denoise = Model.denoise

    def noted(model: Model, inputs: UNetInput) -> torch.Tensor:
        events.append("denoise")
        return denoise(model, inputs)

    monkeypatch.setattr(Model, "denoise", noted)
    three.before_load = lambda name: events.append("load")
    await asyncio.gather(three.draw("a"), three.draw("b"))
    assert events.count("load") == 1
    happened: dict[str, list[str]] = {}
    for order in ("aa", "ab", "ba", "bb"):
        events.clear()
        for name in order:
            await three.draw(name)
        happened[order] = list(events)
    assert happened["aa"] == ["denoise"] * 2 * PLAIN.steps
    assert all(one == happened["aa"] for one in happened.values())
    events.clear()
    await asyncio.gather(*(three.draw(name) for name in "abab"))
    # Those of a model share their steps, and nothing else is computed for there being two.
    assert 2 * PLAIN.steps <= len(events) <= 4 * PLAIN.steps
    assert set(events) == {"denoise"}


class TestFaults:
    async def test_what_does_not_fit_at_all_is_refused_by_its_size(self, two: Bench) -> None:
        two.pool._places["b"].pooled = Pooled("b", 2 * 10**9, lambda: two.load("b"))
        with pytest.raises(UserError, match=r"model: b takes 2 GB of memory.*MODEL_MEMORY_GB"):
            await two.draw("b")
        await two.draw("a")

    @pytest.mark.parametrize(
        "error", [ModelError("/secret/unet is damaged"), OSError(5, "Input/output error"), MemoryError()]
    )
    async def test_a_model_that_cannot_be_loaded_fails_its_jobs_alone_and_is_tried_again(
        self, three: Bench, error: Exception
    ) -> None:
        def fail(name: str) -> None:
            if name == "b":
                raise error

        three.before_load = fail
        results = await asyncio.gather(
            three.draw("b"), three.draw("a"), three.draw("b"), three.draw("c"), return_exceptions=True
        )
        for failure in (results[0], results[2]):
            assert isinstance(failure, UserError)
            assert "model: b cannot be loaded" in str(failure)
            assert "secret" not in str(failure)
        assert isinstance(results[1], np.ndarray)
        assert isinstance(results[3], np.ndarray)
        three.before_load = lambda name: None
        assert np.array_equal(await three.draw("b"), results[1])

    async def test_who_gives_up_waiting_holds_nothing(self, two: Bench) -> None:
        async with two.pool.use("a"):
            waiting = asyncio.create_task(two.draw("b"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await two.draw("a")
        assert two.loads == []
        assert two.pool._places["b"].users == 0

    async def test_a_worker_that_ends_says_so(self, three: Bench) -> None:
        three.close()
        with pytest.raises(UserError, match="shutting down"):
            await three.draw("b")


async def test_models_of_two_families_draw_at_once_each_as_alone(model: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path / "xl", TINY_SDXL)
    loading = Loading(CPU, torch.float32)
    engine = Engine(load_model(model, loading), max_rows=8)
    folders = {"emoji": model, "copy": model, "xl": tmp_path / "xl"}
    pooled = [Pooled(name, ONE, partial(load_model, folder, loading)) for name, folder in folders.items()]
    pool = ModelPool(engine, pooled)

    async def draw(name: str, seed: int) -> np.ndarray:
        async with pool.use(name) as one:
            (image,) = await engine.draw(Drawing(**{**vars(PLAIN), "seeds": (seed,)}), model=one)
        return image

    jobs = [(name, seed) for seed in range(3) for name in folders]
    together = await asyncio.gather(*(draw(*job) for job in jobs))
    for job, image in zip(jobs, together, strict=True):
        alone = await draw(*job)
        assert np.abs(image.astype(int) - alone).max() <= 1, job
    assert not np.array_equal(together[0], together[2])
    pool.close()
    engine.close()


class TestSharing:
    def test_equal_text_encoders_and_vaes_are_one_memory(self, model: Path, tmp_path: Path) -> None:
        shutil.copytree(model, tmp_path / "copy")
        loading = Loading(CPU, torch.float32, shared=SharedWeights())
        one, other = (load_model(folder, loading) for folder in (model, tmp_path / "copy"))
        for mine, theirs in zip(_parameters(one), _parameters(other), strict=True):
            assert mine.data_ptr() == theirs.data_ptr()

    def test_what_differs_is_not_shared(self, model: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        shutil.copytree(model, tmp_path / "copy")
        file = tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors["decoder.conv_out.bias"] += 0.5
        save_file(tensors, file)
        loading = Loading(CPU, torch.float32, shared=SharedWeights())
        one, other = (load_model(folder, loading) for folder in (model, tmp_path / "copy"))
        vaes = [next(loaded.autoencoder._vae.parameters()) for loaded in (one, other)]
        assert vaes[0].data_ptr() != vaes[1].data_ptr()


def _parameters(model: Any) -> list[torch.Tensor]:
    return [*model._prompts._text_encoder.parameters(), *model.autoencoder._vae.parameters()]


async def test_a_model_that_left_leaves_nothing_behind(two: Bench) -> None:
    async with two.pool.use("a") as first:
        networks = weakref.ref(first._unet)
        await two.engine.draw(PLAIN, model=first)
    del first
    await two.draw("b")
    await asyncio.sleep(0)
    gc.collect()
    assert networks() is None


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float32, 4), (torch.float16, 2)])
def test_what_a_model_weighs_is_known_before_it_is_loaded(
    model: Path, dtype: torch.dtype, bytes_each: int
) -> None:
    loaded: Any = load_model(model, Loading(CPU, torch.float32))
    parts = (loaded._unet, loaded.autoencoder._vae, loaded._prompts._text_encoder)
    count = sum(one.numel() for part in parts for one in part.parameters())
    assert weights_bytes(check_model_folder(model), dtype) == pytest.approx(count * bytes_each, rel=0.01)
