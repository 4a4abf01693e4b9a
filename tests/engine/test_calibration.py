"""How many rows share a step is measured before the first job, and a setting overrides it."""

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sdworker.engine.costs import calibration
from sdworker.engine.costs import learner as cost_learner
from sdworker.engine.costs.calibration import Calibration, Measurable
from sdworker.engine.costs.learner import CostLearner
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.unet_input import UNetInput
from tests.engine.conftest import RecordingModel

SHAPE = (16, 16)
DRAWING = Drawing(
    prompt="a red apple",
    negative_prompt="",
    width=64,
    height=64,
    steps=3,
    guidance=4.0,
    sampler="DPM++ 2M Karras",
    seeds=(7,),
)


class TimedModel(StableDiffusion):
    """A model whose forwards take no time but on their own clock: `seconds(rows)`."""

    clock = 0.0
    sizes: list[int]

    def __init__(self, model: StableDiffusion, seconds: Callable[[int], float]) -> None:
        vars(self).update(vars(model))
        self.sizes = []
        self._seconds = seconds

    def denoise(self, inputs: UNetInput) -> torch.Tensor:
        self.sizes.append(inputs.rows)
        TimedModel.clock += self._seconds(inputs.rows)
        return inputs.latents


def calibrate(networks: Measurable, *, largest: int, only_worthwhile: bool) -> Calibration:
    result = Calibration(networks, largest=largest, only_worthwhile=only_worthwhile, stop=threading.Event())
    while not result.done:
        result.measure_next()
    return result


@pytest.fixture
def timed(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], float]], TimedModel]:
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: TimedModel.clock)
    return lambda seconds: TimedModel(networks, seconds)


def test_it_stops_where_twice_the_rows_are_not_worth_it(timed: Callable[..., TimedModel]) -> None:
    result = calibrate(timed(lambda rows: max(0.01, 0.002 * rows)), largest=64, only_worthwhile=True)
    assert result.seconds == pytest.approx({2: 0.01, 4: 0.01, 8: 0.016, 16: 0.032})


def test_one_bad_look_at_the_deciding_size_is_looked_at_again(timed: Callable[..., TimedModel]) -> None:
    looks: list[int] = []

    def seconds(rows: int) -> float:
        looks.append(rows)
        disturbed = 5.0 if looks.count(8) <= 4 and rows == 8 else 1.0
        return disturbed * max(0.01, 0.001 * rows)

    result = calibrate(timed(seconds), largest=64, only_worthwhile=True)
    assert result.seconds[8] == pytest.approx(0.01)
    assert max(result.seconds) == 32


def test_told_how_many_rows_it_measures_up_to_them(timed: Callable[..., TimedModel]) -> None:
    result = calibrate(timed(lambda rows: 0.002 * rows), largest=12, only_worthwhile=False)
    assert list(result.seconds) == [2, 4, 8, 12]


def test_a_slow_model_is_not_measured_for_minutes(timed: Callable[..., TimedModel]) -> None:
    networks = timed(lambda rows: 10.0)
    result = calibrate(networks, largest=64, only_worthwhile=True)
    assert result.seconds == pytest.approx({2: 10.0})
    assert networks.sizes == [2, 2]


def test_a_size_that_does_not_fit_into_memory_ends_it_and_the_last_that_did_is_the_limit(
    timed: Callable[..., TimedModel],
) -> None:
    def seconds(rows: int) -> float:
        if rows > 8:
            raise torch.OutOfMemoryError
        return 0.01

    networks = timed(seconds)
    result = calibrate(networks, largest=64, only_worthwhile=True)
    assert result.out_of_memory
    assert max(result.seconds) == 8


async def test_the_engine_takes_its_limit_from_what_was_measured(
    timed: Callable[..., TimedModel],
) -> None:
    engine = Engine(timed(lambda rows: max(0.01, 0.002 * rows)))
    await engine.calibrate()
    assert engine.batch_rows == 8
    assert engine.costs.seconds(8, SHAPE) == pytest.approx(0.016)
    engine.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not condition():  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.01)


async def test_with_nothing_to_draw_it_is_done_meanwhile(timed: Callable[..., TimedModel]) -> None:
    engine = Engine(timed(lambda rows: max(0.01, 0.002 * rows)))
    engine.calibrate_when_idle()
    await until(lambda: engine.batch_rows == 8)
    engine.close()


async def test_a_drawing_that_comes_meanwhile_goes_between_two_numbers_of_rows(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second number of rows is held up; a drawing that came by then is done before there is a third."""
    measured: list[int] = []
    measuring, may_go_on = threading.Event(), threading.Event()
    time_forward = Calibration._time_forward

    def held_up(self: Calibration, rows: int) -> float:
        measured.append(rows)
        if len(measured) == 2:
            measuring.set()
            may_go_on.wait()
        return time_forward(self, rows)

    monkeypatch.setattr(Calibration, "_time_forward", held_up)
    monkeypatch.setattr(calibration, "_SECONDS_IN_ALL", math.inf)  # a busy machine is not a slow model
    engine = Engine(networks, max_rows=8)
    engine.calibrate_when_idle()
    await asyncio.to_thread(measuring.wait)
    task = asyncio.create_task(engine.draw(DRAWING))
    await until(lambda: len(engine._inbox) > 0)
    may_go_on.set()
    await task
    assert measured == [2, 4]
    await until(lambda: measured == [2, 4, 8])
    engine.close()


async def test_where_there_is_always_something_to_draw_it_is_done_between_steps(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_learner, "_FIRST_DUE_S", 0.0)
    monkeypatch.setattr(cost_learner, "_NEXT_DUE_S", 0.0)
    engine = Engine(networks, max_rows=4)
    assumed = engine.costs.seconds(2, SHAPE)
    drawing = asyncio.create_task(engine.draw(replace(DRAWING, steps=400, sampler="DDIM")))
    engine.calibrate_when_idle()
    await until(lambda: engine.costs.seconds(2, SHAPE) != assumed)
    assert not drawing.done()
    drawing.cancel()
    await asyncio.gather(drawing, return_exceptions=True)
    engine.close()


async def test_one_that_fails_leaves_what_was_assumed_and_draws(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Calibration, rows: int) -> float:
        raise RuntimeError("no clock")

    monkeypatch.setattr(Calibration, "_time_forward", fail)
    engine = Engine(networks)
    assumed = engine.batch_rows
    engine.calibrate_when_idle()
    await until(lambda: "could not be measured" in caplog.text)
    assert engine.batch_rows == assumed
    assert len(await engine.draw(DRAWING)) == 1
    engine.close()


async def test_what_did_not_fit_before_it_is_not_forgotten_by_it(timed: Callable[..., TimedModel]) -> None:
    engine = Engine(timed(lambda rows: 0.01))
    engine.costs.remember_lack_of_memory(SHAPE, 4)
    await engine.calibrate()
    assert engine.batch_rows == 4
    engine.close()


async def test_closing_waits_for_the_forward_at_hand_alone(networks: RecordingModel) -> None:
    """A number of rows takes seven forwards on a quiet machine; on a busy one they may be seconds each."""
    in_a_forward, may_go_on = threading.Event(), threading.Event()
    forwards: list[int] = []

    def seconds(rows: int) -> float:
        forwards.append(rows)
        if len(forwards) == 2:
            in_a_forward.set()
            may_go_on.wait()
        return 1e-9

    engine = Engine(TimedModel(networks, seconds))
    engine.calibrate_when_idle()
    await asyncio.to_thread(in_a_forward.wait)
    closing = asyncio.create_task(asyncio.to_thread(engine.close, finish=False))
    await until(lambda: engine._inbox.closed and engine._learner._stop.is_set())
    may_go_on.set()
    assert await closing
    assert forwards == [2, 2]


class TestTheSecondTime:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr(cost_learner.time, "monotonic", lambda: now[0])
        return now

    def test_it_measures_again_after_a_minute_and_the_better_times_count(
        self, timed: Callable[..., TimedModel], now: list[float]
    ) -> None:
        disturbed = True
        learner = CostLearner(
            timed(lambda rows: 0.01 * rows if disturbed else max(0.03, 0.004 * rows)), max_rows=None
        )
        learner.learn_all()
        assert learner.costs.limit(SHAPE) == 2
        assert not learner.has_more
        now[0] += 61
        disturbed = False
        while learner.has_more:
            learner.learn_more()
        assert learner.costs.limit(SHAPE) == 8
        assert learner.costs.seconds(2, SHAPE) == pytest.approx(0.02)
        assert learner.costs.seconds(8, SHAPE) == pytest.approx(0.032)

    def test_twice_is_enough(self, timed: Callable[..., TimedModel], now: list[float]) -> None:
        learner = CostLearner(timed(lambda rows: 0.01), max_rows=2)
        learner.learn_all()
        now[0] += 61
        assert learner.has_more
        learner.learn_more()
        now[0] += 1000
        assert not learner.has_more

    def test_what_there_is_to_draw_gives_way_to_it_the_first_time_only_and_after_a_while(
        self, timed: Callable[..., TimedModel], now: list[float]
    ) -> None:
        learner = CostLearner(timed(lambda rows: 0.01), max_rows=4)
        assert not learner.is_overdue()
        learner.begin()
        assert not learner.is_overdue()
        now[0] += 21
        assert learner.is_overdue()
        learner.learn_more()
        assert not learner.is_overdue()
        now[0] += 3
        assert learner.is_overdue()
        learner.learn_more()
        now[0] += 1000
        assert learner.has_more
        assert not learner.is_overdue()


async def test_the_setting_overrides_what_was_measured(timed: Callable[..., TimedModel]) -> None:
    engine = Engine(timed(lambda rows: 0.01), max_rows=6)
    await engine.calibrate()
    assert engine.batch_rows == 6
    engine.close()


async def test_a_model_that_does_not_run_is_an_error_not_a_hang(timed: Callable[..., TimedModel]) -> None:
    def seconds(rows: int) -> float:
        raise RuntimeError("no kernel")

    engine = Engine(timed(seconds))
    with pytest.raises(EngineError, match="no kernel"):
        await engine.calibrate()
    engine.close()
    with pytest.raises(EngineError, match="shutting down"):
        await engine.calibrate()


async def test_one_that_nobody_waits_for_any_more_does_not_end_the_engine(
    timed: Callable[..., TimedModel],
) -> None:
    engine = Engine(timed(lambda rows: 0.01))
    may_go_on = threading.Event()
    busy = engine.call(may_go_on.wait)
    waiting = asyncio.create_task(engine.calibrate())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    may_go_on.set()
    assert busy.result(10)
    await asyncio.wait_for(engine.calibrate(), 10)
    engine.close()


async def test_the_real_model_is_measured_for_real(networks: RecordingModel) -> None:
    engine = Engine(networks, max_rows=4)
    await engine.calibrate()
    assert 0 < engine.costs.seconds(2, SHAPE) <= engine.costs.seconds(4, SHAPE)
    engine.close()
