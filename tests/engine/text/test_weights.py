"""Weights, worked out by hand from AUTOMATIC1111's rules."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.text.weights import Fragment, read_weights

BREAK = "BREAK"

# Each row: a text, and its fragments: (text, weight), with BREAK before those that begin a chunk.
TABLE: list[tuple[str, list[object]]] = [
    # The rules' own example.
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
     [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
      ("sky", 1.4641), (".", 1.1)]),
    # Nothing to read.
    ("", []),
    ("a red apple, on a table", [("a red apple, on a table", 1)]),
    ("16:9 at 3:00", [("16:9 at 3:00", 1)]),
    ("a | b", [("a | b", 1)]),
    # One bracket.
    ("(red) apple", [("red", 1.1), (" apple", 1)]),
    ("[red] apple", [("red", 1 / 1.1), (" apple", 1)]),
    ("a (red:1.4) heart", [("a ", 1), ("red", 1.4), (" heart", 1)]),
    ("(red:0.5)", [("red", 0.5)]),
    ("(red:.5)", [("red", 0.5)]),
    ("(red:2.)", [("red", 2)]),
    ("(red:2)", [("red", 2)]),
    ("(red:0)", [("red", 0)]),
    ("(red:+1.5)", [("red", 1.5)]),
    ("(red:-1.5)", [("red", -1.5)]),
    ("(red: 1.5 )", [("red", 1.5)]),
    ("( red : 1.5)", [(" red ", 1.5)]),
    # Nesting multiplies.
    ("((red))", [("red", 1.21)]),
    ("[[red]]", [("red", 1 / 1.21)]),
    ("([red])", [("red", 1)]),
    ("((red:1.5))", [("red", 1.65)]),
    ("((red:1.5):2)", [("red", 3)]),
    ("[(red:2.2)]", [("red", 2)]),
    ("(a (red:2) apple:0.5)", [("a ", 0.5), ("red", 1), (" apple", 0.5)]),
    ("(a [red] apple)", [("a ", 1.1), ("red", 1), (" apple", 1.1)]),
    # A weight closes round brackets only, and must be a number.
    ("[red:1.5]", [("red:1.5", 1 / 1.1)]),
    ("(red:)", [("red:", 1.1)]),
    ("(red:1.5x)", [("red:1.5x", 1.1)]),
    ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
    ("(red:1,5)", [("red:1,5", 1.1)]),
    ("(red:1e1)", [("red:1e1", 1.1)]),
    ("(red:nan)", [("red:nan", 1.1)]),
    ("(red:--1)", [("red:--1", 1.1)]),
    ("(red:apple:1.5)", [("red:apple", 1.5)]),
    ("(red:1.5:2)", [("red:1.5", 2)]),
    ("red:1.5", [("red:1.5", 1)]),
    ("(:1.5)", []),
    ("()", []),
    # Unclosed brackets run to the end, closing ones that close nothing are text.
    ("a (red apple", [("a ", 1), ("red apple", 1.1)]),
    ("a [red apple", [("a ", 1), ("red apple", 1 / 1.1)]),
    ("((a (red:2)", [("a ", 1.21), ("red", 2.42)]),
    ("a (red:1.5", [("a ", 1), ("red:1.5", 1.1)]),
    ("red) apple", [("red) apple", 1)]),
    ("red] apple", [("red] apple", 1)]),
    ("red:1.5) apple", [("red:1.5) apple", 1)]),
    ("(red)) apple", [("red", 1.1), (") apple", 1)]),
    ("((((", []),
    (")]", [(")]", 1)]),
    # Round and square ones close independently.
    ("(a [b) c] d", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1), (" d", 1)]),
    # Escapes.
    (r"\(red\) \[apple\]", [("(red) [apple]", 1)]),
    (r"(a \(red\):1.5)", [("a (red)", 1.5)]),
    (r"a \\(red)", [("a \\", 1), ("red", 1.1)]),
    (r"a\:b \| c", [("a:b | c", 1)]),
    (r"(smile \:1.5)", [("smile :1.5", 1.1)]),
    ("a \\ b \\", [("a \\ b \\", 1)]),
    # Neighbours of equal weight are one fragment.
    ("(unne)(cessary)", [("unnecessary", 1.1)]),
    ("(a:1.5)(b:1.5)(c:2)", [("ab", 1.5), ("c", 2)]),
    ("a(:2)b", [("ab", 1)]),
    # BREAK, on its own only.
    ("a BREAK b", [("a", 1), BREAK, ("b", 1)]),
    ("a\nBREAK\n  b", [("a", 1), BREAK, ("b", 1)]),
    ("a, BREAK, b", [("a,", 1), BREAK, (", b", 1)]),
    ("(a BREAK b:1.5) c", [("a", 1.5), BREAK, ("b", 1.5), (" c", 1)]),
    ("a (b) BREAK (c) d", [("a ", 1), ("b", 1.1), BREAK, ("c", 1.1), (" d", 1)]),
    ("BREAK a", [BREAK, ("a", 1)]),
    ("a BREAK", [("a", 1), BREAK, ("", 1)]),
    ("a BREAK BREAK b", [("a", 1), BREAK, ("", 1), BREAK, ("b", 1)]),
    ("BREAKING break BREAK_x BREAK1", [("BREAKING break BREAK_x BREAK1", 1)]),
]  # fmt: skip


def expected(row: list[object]) -> list[tuple[str, float, bool]]:
    fragments = []
    for i, item in enumerate(row):
        if item != BREAK:
            assert isinstance(item, tuple)
            fragments.append((item[0], item[1], i > 0 and row[i - 1] == BREAK))
    return fragments


@pytest.mark.parametrize(("text", "fragments"), TABLE, ids=[row[0] for row in TABLE])
def test_a_text_has_the_weights_of_the_rules(text: str, fragments: list[object]) -> None:
    read = read_weights(text)
    wanted = expected(fragments)
    assert [(fragment.text, fragment.breaks) for fragment in read] == [(text, b) for text, _, b in wanted]
    assert [fragment.weight for fragment in read] == pytest.approx([weight for _, weight, _ in wanted])


@pytest.mark.parametrize("text", ["([x])", "a ([x]) b", "[(x)]"])
def test_what_cancels_out_is_exactly_one(text: str) -> None:
    assert [fragment.weight for fragment in read_weights(text)] == [1.0]


_PROMPTS = st.text(alphabet="ab,. ()[]:|\\0123.-\nBREAKé猫", max_size=300) | st.text(max_size=100)


@given(_PROMPTS)
def test_any_text_can_be_read_and_its_letters_survive(text: str) -> None:
    def letters(read: str) -> list[str]:
        return [character for character in read if character.isalpha()]

    fragments = read_weights(text)
    assert letters("".join(fragment.text for fragment in fragments)) == letters(
        re.sub(r"\bBREAK\b", "", text)
    )
    assert len(fragments) == sum(fragment.breaks for fragment in fragments) or all(
        fragment.text for fragment in fragments if not fragment.breaks
    )


@given(st.text(alphabet="ab ,.:;-'é猫\n|0123", max_size=100))
def test_a_text_without_brackets_is_itself(text: str) -> None:
    assert "".join(fragment.text for fragment in read_weights(text)) == text
    assert all(fragment == Fragment(text) for fragment in read_weights(text))


@given(_PROMPTS)
def test_neighbours_differ(text: str) -> None:
    fragments = read_weights(text)
    for before, after in pairwise(fragments):
        assert after.breaks or before.weight != after.weight


@pytest.mark.parametrize(
    "text",
    ["(" * 100_000, "[a" * 50_000, "(a" * 50_000 + ")" * 50_000, ":" * 100_000, "(:" + " " * 100_000,
     ": " * 50_000, "(:" + "1" * 100_000, "BREAK " * 16_000, "\\" * 100_000, " " * 100_000],
)  # fmt: skip
def test_work_grows_with_the_length_alone(text: str) -> None:
    """Each takes a fraction of a second; one that was quadratic would take hours."""
    read_weights(text)
