"""A CPU's number of threads follows what steps take. On machines that are formulas; no clock, no core."""

from collections.abc import Callable

import pytest
import torch

from sdworker.engine.costs.threads import ThreadChooser
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.unet_input import UNetInput
from tests.engine.conftest import RecordingModel

Machine = Callable[[int, float], float]
"""(threads, time in s) → times as long as it should, a step takes."""

QUIET_S = 0.02  # of a step, as it should


class Run:
    """Steps one after the other on a machine."""

    def __init__(self, machine: Machine, most: int) -> None:
        self.now_s = 0.0
        self.spent_s: dict[int, float] = {}
        self._chooser = ThreadChooser(most, now_s=0.0)
        self._machine = machine

    @property
    def threads(self) -> int:
        return self._chooser.threads

    def until(self, time_s: float) -> "Run":
        self.spent_s.clear()
        while self.now_s < time_s:
            ratio = self._machine(self.threads, self.now_s)
            self.now_s += ratio * QUIET_S
            self.spent_s[self.threads] = self.spent_s.get(self.threads, 0.0) + ratio * QUIET_S
            self._chooser.step_took(ratio, self.now_s)
        return self

    def share(self, threads: int) -> float:
        """Of the time since `until` was last called, what steps with so many threads took."""
        return self.spent_s.get(threads, 0.0) / sum(self.spent_s.values())


def quiet(threads: int, _now_s: float) -> float:
    return (2 / threads) ** 0.8


def crowded(threads: int, _now_s: float) -> float:
    """Two busy cores: each thread has a third of one, and two wait for each other."""
    return 20.0 if threads == 2 else 4.0


def test_on_quiet_cores_all_threads_draw_and_trials_cost_next_to_nothing() -> None:
    run = Run(quiet, 2).until(3600)
    assert run.threads == 2
    assert run.share(1) < 0.001


def test_in_a_crowd_one_thread_draws_within_a_second_of_steps() -> None:
    run = Run(crowded, 2).until(10 * 20 * QUIET_S)
    assert run.threads == 1
    run.until(3600)
    assert run.share(1) > 0.95


def test_when_the_crowd_has_gone_all_threads_draw_again() -> None:
    run = Run(lambda threads, now_s: (crowded if now_s < 600 else quiet)(threads, now_s), 2)
    assert run.until(599).threads == 1
    run.until(690)
    assert run.threads == 2
    run.until(3600)
    assert run.share(2) > 0.99


def test_a_crowd_that_comes_late_is_noticed_as_soon_as_one_that_was_there_from_the_start() -> None:
    run = Run(lambda threads, now_s: (quiet if now_s < 600 else crowded)(threads, now_s), 2)
    assert run.until(599.9).threads == 2
    run.until(600 + 10 * 20 * QUIET_S)
    assert run.threads == 1


def test_where_fewer_threads_help_no_more_than_many_they_are_not_taken() -> None:
    """Half of each core is somebody else's, and threads that wait cost nothing."""
    run = Run(lambda threads, _now_s: 3.0 if threads == 2 else 3.2, 2).until(3600)
    assert run.threads == 2
    assert run.share(1) < 0.01


@pytest.mark.parametrize("best", [8, 4, 2, 1])
def test_of_many_cores_it_finds_the_number_that_is_quickest(best: int) -> None:
    def machine(threads: int, _now_s: float) -> float:
        return 4.0 * max(best / threads, threads / best)

    run = Run(machine, 8).until(120)
    assert run.threads == best
    run.until(7200)
    assert run.share(best) > 0.95


def test_it_is_found_too_where_what_steps_should_take_was_learned_in_a_crowd() -> None:
    """Then no step is late, and only a look shows it."""
    run = Run(lambda threads, now_s: crowded(threads, now_s) / 20, 2).until(10 * QUIET_S)
    assert run.threads == 1


def test_single_late_steps_change_nothing() -> None:
    steps = 0

    def machine(threads: int, now_s: float) -> float:
        nonlocal steps
        steps += 1
        return 30.0 if steps % 4 == 0 else quiet(threads, now_s)

    run = Run(machine, 2).until(299)
    assert run.threads == 2
    assert run.share(2) > 0.98


async def test_the_engine_draws_with_the_number_that_was_chosen(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth step is the first of a trial, whatever steps take."""
    seen: list[int] = []

    def denoise(inputs: UNetInput) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return RecordingModel.denoise(networks, inputs)

    drawing = Drawing(
        prompt="a red apple", negative_prompt="", width=64, height=64, steps=6, guidance=7.5, sampler="Euler",
        seeds=(1,),
    )  # fmt: skip
    engine = Engine(networks, threads=2, max_rows=2)
    try:
        await engine.calibrate()
        monkeypatch.setattr(networks, "denoise", denoise)
        await engine.draw(drawing)
    finally:
        engine.close()
    assert seen == [2, 2, 2, 2, 2, 1]
