"""Who is served between two steps, piece by piece: pure bookkeeping."""

from collections.abc import Generator
from typing import Any

import pytest

from sdworker.engine.chores import Chore, Chores


class Here:
    """A result that has arrived."""

    def __init__(self, value: str) -> None:
        self.value = value

    def is_here(self) -> bool:
        return True

    def get(self) -> str:
        return self.value


def chore(name: str, pieces: int = 1, **options: Any) -> Chore[str]:
    def work(_shortages: int) -> Generator[None, None, Here]:
        for _ in range(pieces - 1):
            yield
        return Here(name)

    return Chore(work, kind=name, **options)


def served(chores: Chores, most: int = 1000) -> list[str]:
    """Whose pieces are done, in order, until there are none left."""
    order: list[str] = []
    while (one := chores.next()) is not None and len(order) < most:
        order.append(str(one.kind))
        if one.do_piece():
            chores.remove(one)
    return order


def test_a_job_of_one_picture_is_not_behind_one_of_sixteen() -> None:
    chores = Chores()
    chores.add([chore("many") for _ in range(16)])
    assert served(chores, 3) == ["many"] * 3
    chores.add([chore("one")])
    assert "one" in served(chores)[:2]


def test_each_job_is_given_as_many_pieces_as_any_other_whenever_it_came() -> None:
    chores = Chores()
    chores.add([chore("a", 10)])
    served(chores, 4)
    chores.add([chore("b", 5)])
    order = served(chores)
    assert sorted(order[:4]) == ["a", "a", "b", "b"]
    assert order.count("b") == 5


def test_a_small_picture_passes_a_large_one_that_is_in_the_making() -> None:
    chores = Chores()
    chores.add([chore("large", 50, is_large=True)])
    served(chores, 5)
    chores.add([chore("small")])
    assert "small" in served(chores)[:2]


def test_of_large_pictures_only_one_is_in_the_making() -> None:
    chores = Chores()
    for name in ("a", "b"):
        chores.add([chore(name, 3, is_large=True) for _ in range(2)])
    assert served(chores) == (["a"] * 3 + ["b"] * 3) * 2


def test_a_jobs_own_pictures_follow_each_other() -> None:
    chores = Chores()
    chores.add([chore("first", 3), chore("second", 2)])
    assert served(chores) == ["first"] * 3 + ["second"] * 2


def test_what_is_begun_anew_is_told_how_often_memory_lacked() -> None:
    told = []

    def work(shortages: int) -> Generator[None, None, Here]:
        told.append(shortages)
        yield
        return Here("done")

    one = Chore(work, kind="x")
    assert not one.do_piece()
    assert one.begin_anew() == 1
    assert not one.do_piece()
    assert one.do_piece()
    assert told == [0, 1]


def test_a_failure_is_explained_and_told_once() -> None:
    one = chore("it", explain=lambda error: ValueError(f"it: {error}"))
    one.fail(RuntimeError("first"))
    one.fail(RuntimeError("second"))
    with pytest.raises(ValueError, match="it: first"):
        one.result.result()
