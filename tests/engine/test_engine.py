"""The engine under load and under faults: who shares a step, who waits, who fails."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import DeviceLost, EngineError
from sdworker.engine.networks import Networks
from sdworker.engine.vae import ComingImage

from .conftest import CPU

PLAIN = Drawing(
    prompt="a red apple",
    negative_prompt="",
    width=64,
    height=64,
    steps=4,
    guidance=4.0,
    sampler="DPM++ 2M Karras",
    seeds=(7,),
)
LONG = replace(PLAIN, steps=400, sampler="DDIM")

Predict = Callable[..., torch.Tensor]


class TamperedNetworks(Networks):
    """The real networks with a fault put between them and the engine.

    Attributes:
        batches: rows and latent size of every UNet forward.
        fault: called before each forward with its latents and texts; may raise or return other latents.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.batches: list[tuple[int, tuple[int, ...]]] = []
        self.fault: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        guidance: torch.Tensor | None,
    ) -> torch.Tensor:
        if self.fault is not None:
            latents = self.fault(latents, text)
        self.batches.append((len(latents), tuple(latents.shape[2:])))
        return super().predict(latents, timesteps, text, guidance)

    def spoil(self, prompt: str, spoiler: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Apply `spoiler` to the latents of any forward that draws that prompt."""
        marked = self.encode_text(prompt)

        def fault(latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            rows = (text == marked).flatten(1).all(1)
            return (
                torch.where(rows[:, None, None, None], spoiler(latents), latents)
                if bool(rows.any())
                else latents
            )

        self.fault = fault


@pytest.fixture(scope="module")
def loaded(model: Path) -> TamperedNetworks:
    networks = TamperedNetworks.load(model, device=CPU, dtype=torch.float32)
    assert isinstance(networks, TamperedNetworks)
    return networks


@pytest.fixture
def networks(loaded: TamperedNetworks) -> TamperedNetworks:
    loaded.batches.clear()
    loaded.fault = None
    return loaded


@pytest.fixture
def engine(networks: TamperedNetworks) -> Iterator[Engine]:
    engine = Engine(networks, max_rows=8)
    yield engine
    engine.close()


class TestSharing:
    async def test_jobs_that_wait_together_share_their_steps(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        await asyncio.gather(*(engine.draw(replace(PLAIN, seeds=(i,))) for i in range(4)))
        # Four jobs of four steps alone would be sixteen forwards; the first may have started by itself.
        assert len(networks.batches) < 10
        assert max(rows for rows, _ in networks.batches) == 8

    async def test_no_forward_has_more_rows_than_the_limit(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        images = await engine.draw(replace(PLAIN, seeds=tuple(range(11))))
        assert len(images) == 11
        assert max(rows for rows, _ in networks.batches) == 8

    async def test_sizes_that_differ_do_not_share_a_step_nor_swap_at_every_one(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        first = asyncio.create_task(engine.draw(replace(LONG, steps=60)))
        second = asyncio.create_task(engine.draw(replace(LONG, steps=60, width=96)))
        await asyncio.gather(first, second)
        sizes = [size for _, size in networks.batches]
        assert sizes.count((8, 8)) == sizes.count((8, 12)) == 60
        assert sum(before != after for before, after in itertools.pairwise(sizes)) <= 2

    async def test_a_short_job_does_not_wait_for_a_long_one(self, engine: Engine) -> None:
        long = asyncio.create_task(engine.draw(LONG))
        await asyncio.sleep(0.2)
        await engine.draw(PLAIN)
        assert not long.done()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)

    async def test_progress_counts_every_evaluation_of_the_unet(self, engine: Engine) -> None:
        seen: list[tuple[int, int]] = []
        await engine.draw(replace(PLAIN, sampler="Heun"), lambda step, steps: seen.append((step, steps)))
        assert seen == [(i, 7) for i in range(1, 8)]

    async def test_the_same_seed_gives_the_same_picture_alone_and_as_one_of_many(
        self, engine: Engine
    ) -> None:
        several = await engine.draw(replace(PLAIN, seeds=(5, 6, 7), sampler="Euler a"))
        (alone,) = await engine.draw(replace(PLAIN, seeds=(6,), sampler="Euler a"))
        assert np.abs(several[1].astype(int) - alone.astype(int)).max() <= 1


class LateMark:
    """A place in a device's queue that it gets to when the test says, or when somebody waits."""

    def __init__(self) -> None:
        self.passed = threading.Event()
        self.fault: Exception | None = None

    def query(self) -> bool:
        return self.passed.is_set()

    def synchronize(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.passed.set()


class TestImagesOnTheirWay:
    @pytest.fixture
    def late(self, monkeypatch: pytest.MonkeyPatch) -> LateMark:
        """Passes for the images, as if a CUDA device still had to bring them."""
        late = LateMark()
        monkeypatch.setattr("sdworker.engine.networks.mark", lambda _device: late)
        return late

    async def test_nobody_steps_later_for_them(self, engine: Engine, late: LateMark) -> None:
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[int] = asyncio.Queue()

        def on_step(step: int, _steps: int) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        long = asyncio.create_task(engine.draw(LONG, on_step))
        await steps.get()
        short = asyncio.create_task(engine.draw(PLAIN))
        while await steps.get() < 60:
            assert not short.done()
        late.passed.set()
        assert len(await short) == 1
        assert not long.done()
        long.cancel()

    async def test_with_nothing_else_to_do_they_are_waited_for(self, engine: Engine, late: LateMark) -> None:
        images = await engine.draw(replace(PLAIN, seeds=(1, 2)))
        assert len(images) == 2
        assert late.passed.is_set()

    async def test_a_device_that_is_lost_meanwhile_fails_them_and_everything(
        self, networks: TamperedNetworks, late: LateMark
    ) -> None:
        engine = Engine(networks, max_rows=8)
        late.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
        drawn = asyncio.gather(engine.draw(PLAIN), engine.draw(PLAIN), return_exceptions=True)
        assert [type(result) for result in await drawn] == [DeviceLost, DeviceLost]
        engine.close()


class TestIdleTime:
    async def test_it_goes_into_preparing_forwards_until_none_is_wanted(
        self, networks: TamperedNetworks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = ["one", "another"]
        monkeypatch.setattr(TamperedNetworks, "wants_preparing", property(lambda _self: bool(wanted)))
        monkeypatch.setattr(networks, "prepare_wanted", wanted.pop)
        engine = Engine(networks, max_rows=8)
        assert len(await engine.draw(PLAIN)) == 1
        async with asyncio.timeout(10):
            while wanted:  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0.01)
        assert len(await engine.draw(PLAIN)) == 1
        engine.close()

    async def test_a_device_that_is_lost_in_it_fails_what_comes(
        self, networks: TamperedNetworks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = asyncio.Event()
        loop = asyncio.get_running_loop()

        def die() -> None:
            loop.call_soon_threadsafe(tried.set)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(TamperedNetworks, "wants_preparing", True)
        monkeypatch.setattr(networks, "prepare_wanted", die)
        engine = Engine(networks, max_rows=8)
        await tried.wait()
        with pytest.raises(DeviceLost):
            await engine.draw(PLAIN)
        engine.close()


class TestCancelling:
    async def test_a_cancelled_drawing_is_gone_before_its_caller_is(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_step(_step: int, _steps: int) -> None:
            loop.call_soon_threadsafe(started.set)

        task = asyncio.create_task(engine.draw(LONG, on_step))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = len(networks.batches)
        await asyncio.sleep(0.2)
        assert len(networks.batches) == done

    async def test_the_others_of_its_batch_go_on(self, engine: Engine) -> None:
        leaving = asyncio.create_task(engine.draw(LONG))
        staying = asyncio.create_task(engine.draw(replace(PLAIN, steps=30)))
        await asyncio.sleep(0.1)
        leaving.cancel()
        assert len(await staying) == 1

    async def test_a_drawing_cancelled_before_it_began_never_begins(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        task = asyncio.create_task(engine.draw(PLAIN))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestFaults:
    async def test_a_failing_drawing_fails_alone(self, engine: Engine, networks: TamperedNetworks) -> None:
        def explode(_latents: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("boom in /secret/path")

        networks.spoil("cursed", explode)
        results = await asyncio.gather(
            engine.draw(PLAIN),
            engine.draw(replace(PLAIN, prompt="cursed")),
            engine.draw(replace(PLAIN, seeds=(1, 2))),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [list, EngineError, list]
        assert "secret" not in str(results[1])

    async def test_not_a_number_names_the_likely_cause_and_spares_the_others(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        networks.spoil("black", lambda latents: latents * float("nan"))
        results: list[Any] = await asyncio.gather(
            engine.draw(replace(PLAIN, prompt="black")), engine.draw(PLAIN), return_exceptions=True
        )
        bad, good = results
        assert isinstance(bad, EngineError)
        assert "PRECISION=fp32" in str(bad)
        assert isinstance(good, list)

    async def test_a_batch_too_large_for_memory_is_halved_and_no_job_fails(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        def only_three_rows(latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            if len(latents) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return latents

        networks.fault = only_three_rows
        all_images = await asyncio.gather(*(engine.draw(replace(PLAIN, seeds=(i,))) for i in range(4)))
        assert [len(images) for images in all_images] == [1, 1, 1, 1]
        failed_before = len(networks.batches)
        await engine.draw(replace(PLAIN, seeds=(1, 2, 3)))
        assert {rows for rows, _ in networks.batches[failed_before:]} <= {1, 2, 3}

    async def test_a_decode_too_large_for_memory_is_tried_again_with_what_can_be_freed(
        self, engine: Engine, networks: TamperedNetworks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freed: list[bool] = []
        decode = networks.decode

        def only_when_freed(latents: torch.Tensor) -> ComingImage:
            if not freed:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents)

        monkeypatch.setattr(networks, "decode", only_when_freed)
        monkeypatch.setattr(networks, "free_memory", lambda: freed.append(True))
        assert len(await engine.draw(PLAIN)) == 1
        assert freed == [True]

    async def test_one_row_too_large_for_memory_says_what_to_ask_for(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        def nothing_fits(_latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        networks.fault = nothing_fits
        with pytest.raises(EngineError, match=r"out of memory at 64x64.*smaller or fewer"):
            await engine.draw(PLAIN)
        networks.fault = None
        assert len(await engine.draw(PLAIN)) == 1

    async def test_a_lost_device_fails_everything_for_good(self, networks: TamperedNetworks) -> None:
        engine = Engine(networks, max_rows=8)

        def die(_latents: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("CUDA error: device-side assert triggered")

        networks.spoil("poison", die)
        results = await asyncio.gather(
            engine.draw(LONG), engine.draw(replace(PLAIN, prompt="poison")), return_exceptions=True
        )
        assert [type(result) for result in results] == [DeviceLost, DeviceLost]
        networks.fault = None
        with pytest.raises(DeviceLost):
            await engine.draw(PLAIN)
        engine.close()

    async def test_a_defect_of_the_loop_itself_leaves_no_job_hanging(
        self, networks: TamperedNetworks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise IndexError("a defect")

        monkeypatch.setattr("sdworker.engine.engine.choose", broken)
        engine = Engine(networks, max_rows=8)
        with pytest.raises(DeviceLost):
            await engine.draw(PLAIN)
        with pytest.raises(DeviceLost):
            await engine.draw(PLAIN)
        engine.close()

    async def test_a_progress_callback_that_fails_does_not_stop_the_drawing(self, engine: Engine) -> None:
        def broken(_step: int, _steps: int) -> None:
            raise ValueError("a defect of the caller")

        assert len(await engine.draw(PLAIN, broken)) == 1

    async def test_a_closed_engine_takes_nothing_new(self, networks: TamperedNetworks) -> None:
        engine = Engine(networks, max_rows=8)
        engine.close()
        with pytest.raises(EngineError, match="shutting down"):
            await engine.draw(PLAIN)

    async def test_a_sampler_that_cannot_is_refused_before_anything_is_drawn(
        self, engine: Engine, networks: TamperedNetworks
    ) -> None:
        with pytest.raises(EngineError, match="LCM cannot do 400 steps"):
            await engine.draw(replace(LONG, sampler="LCM"))
        assert networks.batches == []


async def test_closing_without_finishing_fails_what_was_submitted_after_the_step_at_hand(
    networks: TamperedNetworks,
) -> None:
    engine = Engine(networks, max_rows=8)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_step(_step: int, _steps: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.create_task(engine.draw(LONG, on_step))
    await begun.wait()
    await asyncio.to_thread(engine.close, finish=False)
    with pytest.raises(EngineError, match="send the job again"):
        await task
    assert len(networks.batches) < LONG.steps


async def test_closing_finishes_what_was_submitted(networks: TamperedNetworks) -> None:
    engine = Engine(networks, max_rows=8)
    task = asyncio.create_task(engine.draw(replace(PLAIN, steps=20)))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(engine.close)
    assert len(await task) == 1
