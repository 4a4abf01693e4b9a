"""What a step is taken to cost, and how many rows it may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.costs import StepCosts, worthwhile

SHAPE = (16, 16)
MEASURED = {2: 0.02, 4: 0.03, 8: 0.05, 16: 0.09}

measurements = st.dictionaries(
    st.sampled_from([2, 4, 8, 16, 32, 64]), st.floats(1e-4, 1.0), min_size=1, max_size=6
)


def test_what_was_measured_is_what_it_costs() -> None:
    costs = StepCosts(MEASURED, SHAPE)
    assert [costs.seconds(rows, SHAPE) for rows in MEASURED] == pytest.approx(list(MEASURED.values()))


def test_between_two_measurements_the_time_is_linear() -> None:
    assert StepCosts(MEASURED, SHAPE).seconds(6, SHAPE) == pytest.approx(0.04)


def test_fewer_rows_than_ever_measured_cost_what_the_fewest_do() -> None:
    assert StepCosts(MEASURED, SHAPE).seconds(1, SHAPE) == 0.02


def test_more_rows_than_fit_are_several_forwards() -> None:
    costs = StepCosts(MEASURED, SHAPE, max_rows=8)
    assert costs.seconds(18, SHAPE) == pytest.approx(0.05 + 0.05 + 0.02)


def test_a_picture_of_four_times_the_area_costs_what_four_rows_do() -> None:
    costs = StepCosts(MEASURED, SHAPE)
    assert costs.seconds(2, (32, 32)) == pytest.approx(costs.seconds(8, SHAPE))


def test_twice_the_rows_must_bring_a_tenth_more_a_second() -> None:
    assert worthwhile({2: 1.0, 4: 1.8, 8: 3.3}) == 4  # 1.11 times as many a second, then 1.09
    assert worthwhile({2: 1.0, 4: 1.9}) == 2
    assert worthwhile({2: 1.0}) == 2


def test_larger_pictures_may_have_fewer_rows_but_always_one_picture() -> None:
    costs = StepCosts({2: 1.0, 4: 1.0, 8: 1.0}, SHAPE)
    assert [costs.limit(shape) for shape in (SHAPE, (8, 16), (32, 16), (64, 64))] == [8, 16, 4, 2]


def test_max_rows_overrides_what_was_measured_for_every_shape() -> None:
    costs = StepCosts(MEASURED, SHAPE, max_rows=5)
    assert costs.limit(SHAPE) == costs.limit((64, 64)) == 5


def test_a_lack_of_memory_is_remembered_for_its_shape() -> None:
    costs = StepCosts(MEASURED, SHAPE)
    costs.remember_lack_of_memory((32, 32), 1)
    assert costs.limit((32, 32)) == 1
    assert costs.limit(SHAPE) == 16
    assert costs.seconds(2, (32, 32)) == pytest.approx(2 * costs.seconds(4, SHAPE))


@given(measurements, st.integers(1, 200), st.sampled_from([SHAPE, (8, 8), (64, 32)]))
def test_more_rows_never_cost_less(measured: dict[int, float], rows: int, shape: tuple[int, int]) -> None:
    costs = StepCosts(measured, SHAPE, max_rows=256)
    assert 0 < costs.seconds(rows, shape) <= costs.seconds(rows + 1, shape) * (1 + 1e-9)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        StepCosts({}, SHAPE)
