"""The engine under load and under faults: who shares a step, who waits, who fails."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdworker.engine import generation
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import DeviceLost, EngineError, EngineLost
from sdworker.engine.generation import Generation, table_for
from sdworker.engine.networks.autoencoder import ComingImage
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.model import Model
from sdworker.engine.tables import SamplerTables, Table
from sdworker.engine.unet_input import UNetInput
from sdworker.errors import UserError

from .conftest import CPU, load

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


class TamperedModel(StableDiffusion):
    """The real model with a fault put between them and the engine.

    Attributes:
        batches: rows and latent size of every UNet forward.
        fault: called before each forward with its latents and texts; may raise or return other latents.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.batches: list[tuple[int, tuple[int, ...]]] = []
        self.fault: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def denoise(self, inputs: UNetInput) -> torch.Tensor:
        if self.fault is not None:
            inputs = replace(inputs, latents=self.fault(inputs.latents, inputs.conditioning.text))
        self.batches.append((inputs.rows, inputs.shape))
        return super().denoise(inputs)

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
def loaded(model: Path) -> TamperedModel:
    return load(TamperedModel, model)


@pytest.fixture
def networks(loaded: TamperedModel) -> TamperedModel:
    loaded.batches.clear()
    loaded.fault = None
    return loaded


@pytest.fixture
def engine(networks: TamperedModel) -> Iterator[Engine]:
    engine = Engine(networks, max_rows=8)
    yield engine
    engine.close()


async def failure_of(drawn: "Awaitable[list[np.ndarray]]") -> BaseException | None:
    results: list[Any] = await asyncio.gather(drawn, return_exceptions=True)
    return results[0] if isinstance(results[0], BaseException) else None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not condition():  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.01)


class TestSharing:
    async def test_jobs_that_wait_together_share_their_steps(
        self, engine: Engine, networks: TamperedModel
    ) -> None:
        await asyncio.gather(*(engine.draw(replace(PLAIN, seeds=(i,))) for i in range(4)))
        # Four jobs of four steps alone would be sixteen forwards; the first may have started by itself.
        assert len(networks.batches) < 10
        assert max(rows for rows, _ in networks.batches) == 8

    async def test_no_forward_has_more_rows_than_the_limit(
        self, engine: Engine, networks: TamperedModel
    ) -> None:
        images = await engine.draw(replace(PLAIN, seeds=tuple(range(11))))
        assert len(images) == 11
        assert max(rows for rows, _ in networks.batches) == 8

    async def test_sizes_that_differ_do_not_share_a_step_nor_swap_at_every_one(
        self, engine: Engine, networks: TamperedModel
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
        monkeypatch.setattr("sdworker.engine.networks.autoencoder.mark", lambda _device: late)
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
        self, networks: TamperedModel, late: LateMark
    ) -> None:
        engine = Engine(networks, max_rows=8)
        late.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
        drawn = asyncio.gather(engine.draw(PLAIN), engine.draw(PLAIN), return_exceptions=True)
        assert [type(result) for result in await drawn] == [DeviceLost, DeviceLost]
        engine.close()


class TestIdleTime:
    async def test_it_goes_into_preparing_forwards_until_none_is_wanted(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = ["one", "another"]
        monkeypatch.setattr(TamperedModel, "wants_preparing", property(lambda _self: bool(wanted)))
        monkeypatch.setattr(networks, "prepare_wanted", wanted.pop)
        engine = Engine(networks, max_rows=8)
        assert len(await engine.draw(PLAIN)) == 1
        async with asyncio.timeout(180):
            while wanted:  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0.01)
        assert len(await engine.draw(PLAIN)) == 1
        engine.close()

    async def test_a_device_that_is_lost_in_it_fails_what_comes(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = asyncio.Event()
        loop = asyncio.get_running_loop()

        def die() -> None:
            loop.call_soon_threadsafe(tried.set)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(TamperedModel, "wants_preparing", True)
        monkeypatch.setattr(networks, "prepare_wanted", die)
        engine = Engine(networks, max_rows=8)
        await tried.wait()
        with pytest.raises(DeviceLost):
            await engine.draw(PLAIN)
        engine.close()


class TestCancelling:
    async def test_a_cancelled_drawing_is_gone_before_its_caller_is(
        self, engine: Engine, networks: TamperedModel
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
        self, engine: Engine, networks: TamperedModel
    ) -> None:
        task = asyncio.create_task(engine.draw(PLAIN))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestFaults:
    async def test_a_failing_drawing_fails_alone(self, engine: Engine, networks: TamperedModel) -> None:
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
        self, engine: Engine, networks: TamperedModel
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
        self, engine: Engine, networks: TamperedModel
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
        self, engine: Engine, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freed: list[bool] = []
        decode = networks.autoencoder.decode

        def only_when_freed(latents: torch.Tensor) -> ComingImage:
            if not freed:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents)

        monkeypatch.setattr(networks.autoencoder, "decode", only_when_freed)
        monkeypatch.setattr(networks, "free_memory", lambda: freed.append(True))
        assert len(await engine.draw(PLAIN)) == 1
        assert freed == [True]

    async def test_one_row_too_large_for_memory_says_what_to_ask_for(
        self, engine: Engine, networks: TamperedModel
    ) -> None:
        def nothing_fits(_latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        networks.fault = nothing_fits
        with pytest.raises(EngineError, match=r"out of memory at 64x64.*smaller or fewer"):
            await engine.draw(PLAIN)
        networks.fault = None
        assert len(await engine.draw(PLAIN)) == 1

    async def test_a_lost_device_fails_everything_for_good(self, networks: TamperedModel) -> None:
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

    async def test_a_defect_of_the_loop_itself_fails_the_jobs_on_board_and_no_other(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise IndexError("a defect")

        engine = Engine(networks, max_rows=8)
        for _ in range(5):  # one drawing that was finished lies between any two
            with monkeypatch.context() as patched:
                patched.setattr("sdworker.engine.loop.choose", broken)
                results = await asyncio.gather(engine.draw(PLAIN), engine.draw(PLAIN), return_exceptions=True)
            assert [type(result) for result in results] == [EngineError, EngineError]
            assert "failed inside the worker" in str(results[0])
            assert len(await engine.draw(PLAIN)) == 1
        engine.close()

    async def test_a_defect_that_comes_again_and_again_ends_the_engine(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise IndexError("a defect")

        monkeypatch.setattr("sdworker.engine.loop.choose", broken)
        engine = Engine(networks, max_rows=8)
        failures = [await failure_of(engine.draw(PLAIN)) for _ in range(4)]
        assert [type(failure) for failure in failures] == [EngineError, EngineError, EngineLost, EngineLost]
        assert not isinstance(engine.lost, DeviceLost)
        engine.close()

    @pytest.mark.parametrize(
        "panic", [SystemExit, KeyboardInterrupt, BaseException], ids=lambda kind: kind.__name__
    )
    async def test_whatever_ends_the_thread_leaves_nobody_waiting_and_is_told(
        self, networks: TamperedModel, panic: type[BaseException]
    ) -> None:
        engine = Engine(networks, max_rows=2)
        told: list[EngineLost] = []
        engine.when_lost(told.append)
        in_a_step, may_end = threading.Event(), threading.Event()

        def end(_latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            in_a_step.set()
            may_end.wait()
            raise panic("a panic")

        networks.fault = end
        live = asyncio.create_task(engine.draw(LONG))
        await asyncio.to_thread(in_a_step.wait)
        waiting = asyncio.create_task(engine.draw(LONG))
        await until(lambda: len(engine._inbox) == 1)
        errand = engine.call(lambda: None)
        may_end.set()
        assert isinstance(await failure_of(live), EngineLost)
        assert isinstance(await failure_of(waiting), EngineLost)
        assert isinstance(await asyncio.to_thread(errand.exception), EngineLost)
        await until(lambda: not engine._thread.is_alive())
        assert told == [engine.lost]
        assert isinstance(await failure_of(engine.draw(PLAIN)), EngineLost)
        with pytest.raises(EngineLost):
            engine.call(lambda: None)
        engine.when_lost(told.append)
        assert told == [engine.lost] * 2
        engine.close()

    async def test_an_errand_that_ends_the_thread_is_answered(self, networks: TamperedModel) -> None:
        engine = Engine(networks, max_rows=2)

        def panic() -> None:
            raise SystemExit(3)

        with pytest.raises(EngineLost):
            await asyncio.wrap_future(engine.call(panic))
        engine.close()

    async def test_a_progress_callback_that_fails_does_not_stop_the_drawing(self, engine: Engine) -> None:
        def broken(_step: int, _steps: int) -> None:
            raise ValueError("a defect of the caller")

        assert len(await engine.draw(PLAIN, broken)) == 1

    async def test_a_closed_engine_takes_nothing_new(self, networks: TamperedModel) -> None:
        engine = Engine(networks, max_rows=8)
        engine.close()
        with pytest.raises(EngineError, match="shutting down"):
            await engine.draw(PLAIN)

    async def test_a_sampler_that_cannot_is_refused_before_anything_is_drawn(
        self, engine: Engine, networks: TamperedModel
    ) -> None:
        with pytest.raises(UserError, match="LCM cannot do 400 steps"):
            await engine.draw(replace(LONG, sampler="LCM"))
        assert networks.batches == []


class Passing:
    """A fault that comes a given number of times and then no more."""

    def __init__(self, error: Exception, *, after: int = 0, times: int = 1) -> None:
        self._error = error
        self._after = after
        self.left = times

    def __call__(self) -> None:
        if self._after > 0:
            self._after -= 1
        elif self.left:
            self.left -= 1
            raise self._error


ANCESTRAL = replace(PLAIN, sampler="Euler a", steps=6)


class TestAStepThatFailedAndIsTakenAgain:
    """It is as if it had never failed: not a bit is different, for it draws no second noise."""

    @pytest.fixture
    async def undisturbed(self, engine: Engine) -> np.ndarray:
        (image,) = await engine.draw(ANCESTRAL)
        return image

    async def test_a_forward_that_once_lacks_memory(
        self, engine: Engine, networks: TamperedModel, undisturbed: np.ndarray
    ) -> None:
        fault = Passing(torch.OutOfMemoryError("CUDA out of memory"), after=3)

        def once(latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            fault()
            return latents

        networks.fault = once
        (image,) = await engine.draw(ANCESTRAL)
        assert fault.left == 0
        assert np.array_equal(image, undisturbed)
        assert engine.costs.limit((8, 8)) == 8  # what passes is not remembered

    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
    @pytest.mark.parametrize("place", ["randn", "send", "combine"])
    async def test_anything_else_of_a_step_that_lacks_memory(
        self,
        engine: Engine,
        monkeypatch: pytest.MonkeyPatch,
        undisturbed: np.ndarray,
        place: str,
        error: Exception,
        times: int,
    ) -> None:
        """Lacking it twice, the drawing fails, and the next one is none the worse."""
        fault = Passing(error, after=4, times=times)

        def failing(function: Callable[..., Any]) -> Callable[..., Any]:
            def once(*arguments: Any, **options: Any) -> Any:
                result = function(*arguments, **options)
                fault()
                return result

            return once

        with monkeypatch.context() as patched:
            if place == "randn":
                patched.setattr("sdworker.engine.generation.torch.randn", failing(torch.randn))
            elif place == "send":
                patched.setattr("sdworker.engine.generation.send", failing(generation.send))
            else:
                combine = Generation._combine
                patched.setattr(Generation, "_combine", failing(combine))
            drawn = engine.draw(ANCESTRAL)
            if times == 2:
                assert "out of memory" in str(await failure_of(drawn))
            else:
                assert np.array_equal((await drawn)[0], undisturbed)
        assert fault.left == 0
        assert np.array_equal((await engine.draw(ANCESTRAL))[0], undisturbed)

    @pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE", "DPM2 a Karras", "LCM"])
    async def test_one_that_fails_for_several_together(
        self, engine: Engine, networks: TamperedModel, sampler: str
    ) -> None:
        """Each alone then, also those for whom it was the last step."""
        drawings = [replace(ANCESTRAL, sampler=sampler, steps=steps) for steps in (2, 3, 3, 6)]
        alone = [(await engine.draw(drawing))[0] for drawing in drawings]
        together = 0

        def whenever_together(latents: torch.Tensor, _text: torch.Tensor) -> torch.Tensor:
            nonlocal together
            if len(latents) > 2:
                together += 1
                raise RuntimeError("a passing fault")
            return latents

        networks.fault = whenever_together
        images = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
        assert together > 0
        assert all(np.array_equal(ours[0], theirs) for ours, theirs in zip(images, alone, strict=True))

    async def test_a_take_that_fails_fails_its_drawing_alone(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when its neighbours have just finished."""
        take = Generation.take

        def failing(self: Generation, predicted: torch.Tensor) -> None:
            if self.drawing.prompt == "cursed":
                raise RuntimeError("boom")
            take(self, predicted)

        monkeypatch.setattr(Generation, "take", failing)
        results = await asyncio.gather(
            *(engine.draw(replace(ANCESTRAL, steps=1, prompt=prompt)) for prompt in ("a", "cursed", "b")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [list, EngineError, list]

    async def test_a_beginning_that_once_lacks_memory(
        self,
        engine: Engine,
        networks: TamperedModel,
        monkeypatch: pytest.MonkeyPatch,
        picture: np.ndarray,
        mask: np.ndarray,
    ) -> None:
        drawing = replace(ANCESTRAL, image=picture, mask=mask, strength=0.7)
        (undisturbed,) = await engine.draw(drawing)
        encode = networks.autoencoder.encode_in_pieces
        for after in (0, 1):
            fault = Passing(torch.OutOfMemoryError("CUDA out of memory"), after=after)

            def once(pixels: torch.Tensor, fault: Passing = fault) -> Any:
                posterior = yield from encode(pixels)
                fault()
                return posterior

            monkeypatch.setattr(networks.autoencoder, "encode_in_pieces", once)
            assert np.array_equal((await engine.draw(drawing))[0], undisturbed)
            assert fault.left == 0


class TestWaiting:
    async def test_a_drawing_that_could_never_fit_into_memory_is_refused_at_once(
        self, networks: TamperedModel
    ) -> None:
        engine = Engine(networks, max_rows=8, memory_bytes=2**20)
        with pytest.raises(EngineError, match=r"16 images of 512x512 in 500 steps of DPM2 a.*fewer images"):
            await engine.draw(
                replace(PLAIN, width=512, height=512, steps=500, sampler="DPM2 a", seeds=tuple(range(16)))
            )
        assert networks.batches == []
        assert len(await engine.draw(PLAIN)) == 1
        engine.close()

    async def test_no_more_than_fit_into_memory_live_at_once_and_all_are_drawn(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawing = replace(PLAIN, steps=30, sampler="DDIM")
        holds = Generation(drawing, table_of(networks, drawing), networks).memory_bytes
        engine = Engine(networks, max_rows=16, memory_bytes=3 * holds)
        lived: list[int] = []
        take = Generation.take

        def counting(self: Generation, predicted: torch.Tensor) -> None:
            lived.append(sum(one.memory_bytes for one in engine._board.generations if one.is_live))
            take(self, predicted)

        monkeypatch.setattr(Generation, "take", counting)
        images = await asyncio.gather(*(engine.draw(replace(drawing, seeds=(i,))) for i in range(8)))
        assert len(images) == 8
        assert max(lived) == 3 * holds
        engine.close()

    async def test_what_is_counted_is_what_is_held(
        self, networks: TamperedModel, picture: np.ndarray, mask: np.ndarray
    ) -> None:
        for changes in ({}, {"sampler": "Euler a", "seeds": (1, 2)}, {"image": picture, "mask": mask}):
            drawing = replace(PLAIN, steps=20, **changes)
            one = Generation(drawing, table_of(networks, drawing), networks)
            for _ in one.begin():
                pass
            state = one._begun
            held = [state.history] if state.kept is None else [state.history, *vars(state.kept).values()]
            held += [told.text for told in state.conditionings]
            assert one.memory_bytes == sum(tensor.nbytes for tensor in held)

    async def test_sixteen_pictures_that_come_together_are_encoded_one_a_step(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
    ) -> None:
        """So whoever is being drawn waits for one of them at a time. A share of nothing is one piece of work."""
        monkeypatch.setattr("sdworker.engine.beginning._SHARE", 0.0)
        engine = Engine(networks, max_rows=8)
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()
        happened: list[str] = []

        def on_step(_step: int, _steps: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            happened.append("step")

        encode = networks.autoencoder.encode_in_pieces

        def noted(pixels: torch.Tensor) -> Any:
            happened.append("encode")
            return (yield from encode(pixels))

        monkeypatch.setattr(networks.autoencoder, "encode_in_pieces", noted)
        long = asyncio.create_task(engine.draw(replace(LONG, guidance=1.0), on_step))
        await begun.wait()
        several = [replace(PLAIN, image=picture, strength=0.5, seeds=(i,)) for i in range(16)]
        images = await asyncio.gather(
            *(engine.draw(drawing, lambda *_: happened.append("step")) for drawing in several)
        )
        assert len(images) == 16
        assert happened.count("encode") == 16
        assert ("encode", "encode") not in itertools.pairwise(happened)
        long.cancel()
        await failure_of(long)
        engine.close()

    async def test_sixteen_pictures_that_finish_together_are_decoded_one_a_step(
        self, networks: TamperedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So whoever is being drawn waits for one of them at a time. A share of nothing is one piece of work."""
        monkeypatch.setattr("sdworker.engine.finishing._SHARE", 0.0)
        engine = Engine(networks, max_rows=40)
        happened: list[str] = []
        decode = networks.autoencoder.decode

        def noted(latents: torch.Tensor) -> ComingImage:
            happened.append("decode")
            return decode(latents)

        monkeypatch.setattr(networks.autoencoder, "decode", noted)
        long = asyncio.create_task(engine.draw(LONG, lambda *_: happened.append("step")))
        images = await engine.draw(replace(PLAIN, seeds=tuple(range(16))))
        assert len(images) == 16
        assert not long.done()
        assert happened.count("decode") == 16
        assert ("decode", "decode") not in itertools.pairwise(happened)
        long.cancel()
        await failure_of(long)
        engine.close()

    async def test_one_that_waits_for_room_can_be_cancelled(self, networks: TamperedModel) -> None:
        holds = Generation(LONG, table_of(networks, LONG), networks).memory_bytes
        engine = Engine(networks, max_rows=8, memory_bytes=holds)
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_step(_step: int, _steps: int) -> None:
            loop.call_soon_threadsafe(begun.set)

        live = asyncio.create_task(engine.draw(LONG, on_step))
        await begun.wait()
        waiting = asyncio.create_task(engine.draw(LONG))
        await until(lambda: len(engine._board.generations) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        live.cancel()
        await failure_of(live)
        engine.close()


def table_of(networks: Model, drawing: Drawing) -> Table:
    return table_for(drawing, SamplerTables(networks.scheduler_config, CPU), inpaints_natively=False)


async def test_closing_without_finishing_fails_what_was_submitted_after_the_step_at_hand(
    networks: TamperedModel,
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


async def test_closing_finishes_what_was_submitted(networks: TamperedModel) -> None:
    engine = Engine(networks, max_rows=8)
    task = asyncio.create_task(engine.draw(replace(PLAIN, steps=20)))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(engine.close)
    assert len(await task) == 1
