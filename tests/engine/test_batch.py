"""Which generations make the next step: never too many, one shape, and nobody starves."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.batch import choose

LIMIT = 8


@dataclass(eq=False)
class Live:
    """A generation as the choice sees it, and what the simulation keeps of it."""

    rows: int
    shape: str = "a"
    last_step: int = 0
    steps_left: int = 1
    crowd: int = 0
    waits: list[int] = field(default_factory=list)


def limit(_shape: object) -> int:
    return LIMIT


lives = st.builds(
    Live, rows=st.integers(1, 2 * LIMIT), shape=st.sampled_from("abc"), last_step=st.integers(0, 20)
)


def test_nothing_waiting_makes_no_step() -> None:
    assert choose([], limit) == []


@given(st.lists(lives, min_size=1, max_size=30))
def test_a_step_never_has_more_rows_than_the_limit_unless_the_first_alone_has(waiting: list[Live]) -> None:
    chosen = choose(waiting, limit)
    assert chosen
    assert sum(live.rows for live in chosen) <= LIMIT or len(chosen) == 1


@given(st.lists(lives, min_size=1, max_size=30))
def test_a_step_has_one_shape_and_nobody_twice(waiting: list[Live]) -> None:
    chosen = choose(waiting, limit)
    assert len({live.shape for live in chosen}) == 1
    assert len({id(live) for live in chosen}) == len(chosen)
    assert all(live in waiting for live in chosen)


@given(st.lists(lives, min_size=1, max_size=30))
def test_the_one_that_waited_longest_is_always_in_and_first_come_counts_among_equals(
    waiting: list[Live],
) -> None:
    longest = min(live.last_step for live in waiting)
    assert choose(waiting, limit)[0] is next(live for live in waiting if live.last_step == longest)


@given(st.lists(lives, min_size=1, max_size=30))
def test_nobody_who_would_fit_is_left_out(waiting: list[Live]) -> None:
    chosen = choose(waiting, limit)
    room = LIMIT - sum(live.rows for live in chosen)
    left_out = [live for live in waiting if live not in chosen and live.shape == chosen[0].shape]
    assert all(live.rows > room for live in left_out)


@given(st.lists(lives, max_size=30))
def test_choosing_changes_nothing(waiting: list[Live]) -> None:
    before = [(id(live), live.rows, live.last_step) for live in waiting]
    choose(waiting, limit)
    assert [(id(live), live.rows, live.last_step) for live in waiting] == before


def test_each_shape_has_its_own_limit() -> None:
    waiting = [Live(2, shape) for shape in "abab"]
    rows = {"a": 4, "b": 2}
    assert len(choose(waiting, lambda shape: rows[str(shape)])) == 2
    assert len(choose(waiting[1:], lambda shape: rows[str(shape)])) == 1


def simulate(arrivals: list[list[Live]]) -> list[Live]:
    """The engine's loop without an engine: everyone who arrived, with the waits of each.

    Everyone left out becomes the one that waited longest once all who were there before it had their turn; each
    step serves at least one of those, and no newcomer goes before it. So no wait is longer than the crowd was.
    """
    live: list[Live] = []
    everyone: list[Live] = []
    step = 0
    pending = list(reversed(arrivals))
    while pending or live:
        for newcomer in pending.pop() if pending else ():
            live.append(newcomer)
            everyone.append(newcomer)
            newcomer.last_step, newcomer.crowd = step, len(live)
        step += 1
        for chosen in choose(live, limit):
            wait = step - chosen.last_step
            assert wait <= chosen.crowd
            chosen.waits.append(wait)
            chosen.last_step, chosen.crowd = step, len(live)
            chosen.steps_left -= 1
        live = [one for one in live if one.steps_left]
    return everyone


@given(
    st.lists(
        st.lists(
            st.builds(
                Live,
                rows=st.integers(1, 2 * LIMIT),
                shape=st.sampled_from("aaab"),
                steps_left=st.integers(1, 5),
            ),
            max_size=3,
        ),
        max_size=30,
    )
)
def test_no_wait_is_longer_than_the_crowd_was(arrivals: list[list[Live]]) -> None:
    assert all(live.steps_left == 0 for live in simulate(arrivals))


@pytest.mark.parametrize("seed", range(3))
def test_over_thousands_of_arrivals_nobody_starves(seed: int) -> None:
    chance = random.Random(seed)
    arrivals = [
        # Mostly small ones of one shape: a stream that could shut out the large and the odd for ever.
        [
            Live(
                rows=chance.choice([1, 2, 2, 2, LIMIT, 2 * LIMIT]),
                shape=chance.choice("aaaaaab"),
                steps_left=2,
            )
        ]
        if chance.random() < 0.5
        else []
        for _ in range(6000)
    ]
    everyone = simulate(arrivals)
    assert len(everyone) > 2500
    assert all(live.steps_left == 0 for live in everyone)


def test_a_large_one_amid_small_ones_waits_one_round() -> None:
    large = Live(rows=LIMIT, steps_left=20)
    small = [Live(rows=2, steps_left=40) for _ in range(8)]  # four of them make a step
    simulate([[large, *small]])
    assert set(large.waits[1:]) == {3}
