"""How steps and stages are told apart."""

import time

import pytest

from bench.jobs.laps import Laps
from bench.sizes import parse_rows, parse_sizes
from bench.steps.forwards import Forward, step_times


def test_only_steps_of_the_whole_batch_that_follow_one_another_count() -> None:
    forwards = [
        Forward(2, 0.0, 1.0),
        Forward(4, 1.5, 3.5),
        Forward(4, 3.75, 5.75),
        Forward(2, 9.0, 10.0),
    ]
    times = step_times(forwards, rows=4)
    assert (times.unet_s, times.between_s, times.step_s) == (2.0, 0.25, 2.25)
    with pytest.raises(ValueError, match="no two steps of 2 rows"):
        step_times(forwards, rows=2)


def test_stages_add_up_to_the_whole_and_one_that_comes_again_is_added_up() -> None:
    laps = Laps()
    began = time.perf_counter()
    laps.restart()
    for stage in ("text", "denoise", "text"):
        laps.lap(stage)
    assert list(laps.seconds) == ["text", "denoise"]
    assert 0 < sum(laps.seconds.values()) <= time.perf_counter() - began


def test_sizes_and_rows_are_read_from_the_command_line() -> None:
    assert parse_sizes("512x512,768x512") == [(512, 512), (768, 512)]
    assert parse_rows("2,8") == [2, 8]
    for parse, wrong in ((parse_sizes, "512"), (parse_rows, "3"), (parse_rows, "0")):
        with pytest.raises(ValueError, match=r"unpack|even"):
            parse(wrong)
