"""How many rows share a step is measured before the first job, and a setting overrides it."""

import asyncio
import threading
from collections.abc import Callable

import pytest
import torch

from sdworker.engine import calibration
from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.networks import Networks
from tests.engine.conftest import RecordingNetworks

SHAPE = (16, 16)


class TimedNetworks(Networks):
    """Networks whose forwards take no time but on their own clock: `seconds(rows)`."""

    clock = 0.0
    sizes: list[int]

    def __init__(self, networks: Networks, seconds: Callable[[int], float]) -> None:
        vars(self).update(vars(networks))
        self.sizes = []
        self._seconds = seconds

    def predict(self, latents: torch.Tensor, *_args: object) -> torch.Tensor:
        rows = len(latents)
        self.sizes.append(rows)
        TimedNetworks.clock += self._seconds(rows)
        return latents


@pytest.fixture
def timed(
    networks: RecordingNetworks, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], float]], TimedNetworks]:
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: TimedNetworks.clock)
    return lambda seconds: TimedNetworks(networks, seconds)


def test_it_stops_where_twice_the_rows_are_not_worth_it(timed: Callable[..., TimedNetworks]) -> None:
    result = calibration.calibrate(
        timed(lambda rows: max(0.01, 0.002 * rows)), largest=64, only_worthwhile=True
    )
    assert result.seconds == pytest.approx({2: 0.01, 4: 0.01, 8: 0.016, 16: 0.032})


def test_one_bad_look_at_the_deciding_size_is_looked_at_again(timed: Callable[..., TimedNetworks]) -> None:
    looks: list[int] = []

    def seconds(rows: int) -> float:
        looks.append(rows)
        disturbed = 5.0 if looks.count(8) <= 4 and rows == 8 else 1.0
        return disturbed * max(0.01, 0.001 * rows)

    result = calibration.calibrate(timed(seconds), largest=64, only_worthwhile=True)
    assert result.seconds[8] == pytest.approx(0.01)
    assert max(result.seconds) == 32


def test_told_how_many_rows_it_measures_up_to_them(timed: Callable[..., TimedNetworks]) -> None:
    result = calibration.calibrate(timed(lambda rows: 0.002 * rows), largest=12, only_worthwhile=False)
    assert list(result.seconds) == [2, 4, 8, 12]


def test_a_slow_model_is_not_measured_for_minutes(timed: Callable[..., TimedNetworks]) -> None:
    networks = timed(lambda rows: 10.0)
    result = calibration.calibrate(networks, largest=64, only_worthwhile=True)
    assert result.seconds == {2: 10.0}
    assert networks.sizes == [2, 2]


def test_a_size_that_does_not_fit_into_memory_ends_it_and_the_last_that_did_is_the_limit(
    timed: Callable[..., TimedNetworks],
) -> None:
    def seconds(rows: int) -> float:
        if rows > 8:
            raise torch.OutOfMemoryError
        return 0.01

    networks = timed(seconds)
    result = calibration.calibrate(networks, largest=64, only_worthwhile=True)
    assert result.out_of_memory
    assert max(result.seconds) == 8


async def test_the_engine_takes_its_limit_from_what_was_measured(
    timed: Callable[..., TimedNetworks],
) -> None:
    engine = Engine(timed(lambda rows: max(0.01, 0.002 * rows)))
    await engine.calibrate()
    assert engine.batch_rows == 8
    assert engine.costs.seconds(8, SHAPE) == pytest.approx(0.016)
    engine.close()


async def test_the_setting_overrides_what_was_measured(timed: Callable[..., TimedNetworks]) -> None:
    engine = Engine(timed(lambda rows: 0.01), max_rows=6)
    await engine.calibrate()
    assert engine.batch_rows == 6
    engine.close()


async def test_a_model_that_does_not_run_is_an_error_not_a_hang(timed: Callable[..., TimedNetworks]) -> None:
    def seconds(rows: int) -> float:
        raise RuntimeError("no kernel")

    engine = Engine(timed(seconds))
    with pytest.raises(EngineError, match="no kernel"):
        await engine.calibrate()
    engine.close()
    with pytest.raises(EngineError, match="shutting down"):
        await engine.calibrate()


async def test_one_that_nobody_waits_for_any_more_does_not_end_the_engine(
    timed: Callable[..., TimedNetworks],
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


async def test_the_real_model_is_measured_for_real(networks: RecordingNetworks) -> None:
    engine = Engine(networks, max_rows=4)
    await engine.calibrate()
    assert 0 < engine.costs.seconds(2, SHAPE) <= engine.costs.seconds(4, SHAPE)
    engine.close()
