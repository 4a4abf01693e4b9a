"""Who is served between two steps, piece by piece: pure bookkeeping."""

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from sdworker.engine.chores import Chore, Chores, Joint


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


def alike(name: str, calls: list[list[str]], *, pieces: int = 1, most: int = 3, bad: str = "") -> Chore[str]:
    """One whose pieces can be done with those of others; each call is noted, and fails where it has a bad one."""

    def run(given: Sequence[str]) -> list[str]:
        calls.append(list(given))
        if bad in given:
            raise ValueError(f"{bad} is bad")
        return [one.upper() for one in given]

    def work(_shortages: int) -> Generator[Joint, str, Here]:
        made = ""
        for _ in range(pieces):
            made += yield Joint(key="alike", given=name, run=run, most=most)
        return Here(made)

    return Chore(work, kind=name, joins="alike")


def finish(chores: Chores) -> dict[str, str]:
    """What comes of each, done as the engine does them."""
    results = {}
    while (one := chores.next()) is not None:
        for done in one.do_piece(chores.mates_of(one)):
            chores.remove(done)
            assert done.coming is not None
            results[str(done.kind)] = done.coming.get()
    return results


def test_like_pieces_of_several_jobs_are_done_as_one_up_to_what_one_may_take() -> None:
    calls: list[list[str]] = []
    chores = Chores()
    chores.add([alike("a", calls), alike("b", calls)])
    for name in ("c", "d", "e"):
        chores.add([alike(name, calls, pieces=2 if name == "e" else 1)])
    assert finish(chores) == {"a": "A", "b": "B", "c": "C", "d": "D", "e": "EE"}
    assert calls == [["a", "b", "c"], ["d", "e"], ["e"]]


def test_what_nobody_wants_any_more_is_not_done_with_others() -> None:
    calls: list[list[str]] = []
    chores = Chores()
    chores.add([alike("a", calls)])
    left = alike("b", calls)
    left.cancelled = True
    chores.add([left, chore("c")])
    one = chores.next()
    assert one is not None
    one.do_piece(chores.mates_of(one))
    assert calls == [["a"]]


def test_where_they_fail_together_only_the_one_at_fault_fails() -> None:
    calls: list[list[str]] = []
    chores = Chores()
    jobs = [alike(name, calls, bad="b") for name in ("a", "b", "c")]
    for job in jobs:
        chores.add([job])
    done, failed = [], []
    while (one := chores.next()) is not None:
        try:
            finished = one.do_piece(chores.mates_of(one))
        except ValueError:
            failed.append(one)
            chores.remove(one)
        else:
            done += finished
            for each in finished:
                chores.remove(each)
    assert failed == [jobs[1]]
    assert done == [jobs[0], jobs[2]]
