"""Schedules and composition, worked out by hand from AUTOMATIC1111's rules."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.schedule import MOST_TEXTS, Part, Span, read_parts, read_schedule

# Each row: a text, evaluations, and what is said before which evaluation.
TABLE: list[tuple[str, int, list[tuple[int, str]]]] = [
    ("a cat", 10, [(10, "a cat")]),
    ("", 10, [(10, "")]),
    # [to:when], [from:to:when], [from::when]: the change comes at the first evaluation greater than when.
    ("a [cat:3]", 10, [(4, "a "), (10, "a cat")]),
    ("a [cat:dog:3] b", 10, [(4, "a cat b"), (10, "a dog b")]),
    ("a [cat::3]", 10, [(4, "a cat"), (10, "a ")]),
    ("[::3]", 10, [(10, "")]),
    ("[:cat:3]", 10, [(4, ""), (10, "cat")]),
    ("[cat:dog: 3 ]", 10, [(4, "cat"), (10, "dog")]),
    ("a [cat : dog : 3] b", 10, [(4, "a cat  b"), (10, "a  dog  b")]),
    # With a dot it is a fraction of the steps.
    ("[sun:moon:0.5]", 10, [(6, "sun"), (10, "moon")]),
    ("[sun:moon:.5]", 10, [(6, "sun"), (10, "moon")]),
    ("[sun:moon:0.25]", 10, [(3, "sun"), (10, "moon")]),
    ("[sun:moon:0.5]", 25, [(13, "sun"), (25, "moon")]),
    ("[sun:moon:0.0]", 10, [(1, "sun"), (10, "moon")]),
    ("[sun:moon:1.0]", 10, [(10, "sun")]),
    ("[sun:moon:1.]", 10, [(10, "sun")]),
    ("[sun:moon:1.3]", 10, [(10, "sun")]),
    # At the edges.
    ("[cat:dog:0]", 10, [(1, "cat"), (10, "dog")]),
    ("[cat:dog:1]", 10, [(2, "cat"), (10, "dog")]),
    ("[cat:dog:8]", 10, [(9, "cat"), (10, "dog")]),
    ("[cat:dog:9]", 10, [(10, "cat")]),
    ("[cat:dog:500]", 10, [(10, "cat")]),
    ("[cat:dog:" + "9" * 400 + "]", 10, [(10, "cat")]),
    ("[cat:dog:-1]", 10, [(10, "dog")]),
    ("[cat:dog:0]", 1, [(1, "cat")]),
    # Alternation.
    ("[cat|dog]", 5, [(1, "cat"), (2, "dog"), (3, "cat"), (4, "dog"), (5, "cat")]),
    ("a [b|c|d] e", 4, [(1, "a b e"), (2, "a c e"), (3, "a d e"), (4, "a b e")]),
    ("[a|]", 3, [(1, "a"), (2, ""), (3, "a")]),
    ("[a||b]", 3, [(1, "a"), (2, ""), (3, "b")]),
    ("[a|a]", 3, [(3, "a")]),
    # Nesting.
    ("[a:[b:c:4]:2]", 10, [(3, "a"), (5, "b"), (10, "c")]),
    ("[[a|b]:c:2]", 5, [(1, "a"), (2, "b"), (3, "a"), (5, "c")]),
    ("[a|[b|c]]", 4, [(1, "a"), (2, "c"), (3, "a"), (4, "c")]),
    ("[a:b:2] [c:d:4]", 10, [(3, "a c"), (5, "b c"), (10, "b d")]),
    ("([cat:dog:3]:1.2)", 10, [(4, "(cat:1.2)"), (10, "(dog:1.2)")]),
    # Weights within stay, for those who read them.
    ("[(cat:1.2):dog:3]", 10, [(4, "(cat:1.2)"), (10, "dog")]),
    ("[(cat:1.2):3]", 10, [(4, ""), (10, "(cat:1.2)")]),
    ("[(cat|dog):3]", 10, [(4, ""), (10, "(cat|dog)")]),
    ("[a|(b:1.1)]", 2, [(1, "a"), (2, "(b:1.1)")]),
    ("a [[[b]]:2]", 10, [(3, "a "), (10, "a [[b]]")]),
    # What is not whole is text.
    ("[cat]", 10, [(10, "[cat]")]),
    ("[cat:dog]", 10, [(10, "[cat:dog]")]),
    ("[cat:dog:soon]", 10, [(10, "[cat:dog:soon]")]),
    ("[cat:dog:1e1]", 10, [(10, "[cat:dog:1e1]")]),
    ("[a:b:c:3]", 10, [(10, "[a:b:c:3]")]),
    ("[a|b:3]", 10, [(10, "[a|b:3]")]),
    ("a [cat:dog:3", 10, [(10, "a [cat:dog:3")]),
    ("cat:dog:3]", 10, [(10, "cat:dog:3]")]),
    ("a | b : 3", 10, [(10, "a | b : 3")]),
    ("(a:b:3)", 10, [(10, "(a:b:3)")]),
    ("[a (b:c:3]", 10, [(10, "[a (b:c:3]")]),
    ("[a) b:c:3]", 10, [(10, "[a) b:c:3]")]),
    ("[a [b:c:3]", 10, [(4, "[a b"), (10, "[a c")]),
    ("((a][:b:c [d:3]", 10, [(4, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a:b:3]]", 10, [(4, "a]"), (10, "b]")]),
    # Escapes protect brackets, colons and bars.
    (r"\[cat:dog:3\]", 10, [(10, r"\[cat:dog:3\]")]),
    (r"[a\:b:3]", 10, [(4, ""), (10, r"a\:b")]),
    (r"[a\|b|c]", 2, [(1, r"a\|b"), (2, "c")]),
    (r"[a\]b:c:3]", 10, [(4, r"a\]b"), (10, "c")]),
    ("[cat:3] \\", 10, [(4, " \\"), (10, "cat \\")]),
]


@pytest.mark.parametrize(
    ("text", "evaluations", "said"), TABLE, ids=[f"{row[0][:40]} {row[1]}" for row in TABLE]
)
def test_a_text_says_what_the_rules_say(text: str, evaluations: int, said: list[tuple[int, str]]) -> None:
    assert [(span.until, span.text) for span in read_schedule(text, evaluations)] == said


def test_a_sampler_of_second_order_has_twice_the_steps_to_count() -> None:
    assert read_schedule("[sun:moon:0.5]", 2 * 10)[0].until == 11
    assert read_schedule("[sun:moon:3]", 2 * 10)[0].until == 4


# Each row: a prompt, and its parts: weight and text.
PARTS: list[tuple[str, list[tuple[float, str]]]] = [
    ("a cat", [(1, "a cat")]),
    ("a cat AND a dog", [(1, "a cat"), (1, "a dog")]),
    ("a cat :1.2 AND a dog:0.5", [(1.2, "a cat"), (0.5, "a dog")]),
    ("a cat : -1 AND a dog", [(-1, "a cat"), (1, "a dog")]),
    ("a\nAND\nb :.5", [(1, "a"), (0.5, "b")]),
    ("a AND b AND c:2", [(1, "a"), (1, "b"), (2, "c")]),
    ("a AND", [(1, "a"), (1, "")]),
    ("AND", [(1, ""), (1, "")]),
    ("AND :2", [(1, ""), (2, "")]),
    ("a (AND) b", [(1, "a ("), (1, ") b")]),
    ("a AND b:1.2:3", [(1, "a"), (3, "b:1.2")]),
    ("a AND (b:1.2)", [(1, "a"), (1, "(b:1.2)")]),
    ("a AND b:x", [(1, "a"), (1, "b:x")]),
    ("a cat at 16:9", [(1, "a cat at 16:9")]),
    ("SAND and BAND, and ANDES AND_x", [(1, "SAND and BAND, and ANDES AND_x")]),
]


@pytest.mark.parametrize(("prompt", "parts"), PARTS, ids=[row[0] for row in PARTS])
def test_and_joins_prompts_with_weights(prompt: str, parts: list[tuple[float, str]]) -> None:
    assert read_parts(prompt, 10) == tuple(Part(weight, (Span(10, text),)) for weight, text in parts)


def test_each_part_has_a_schedule_of_its_own() -> None:
    parts = read_parts("[a:b:3] AND c :2", 10)
    assert parts == (Part(1, (Span(4, "a"), Span(10, "b"))), Part(2, (Span(10, "c"),)))


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(PromptError, match="AND joins 41 prompts; allowed: at most 16"):
        read_parts("a" + " AND a" * 40, 10)


def test_too_many_texts_are_refused() -> None:
    options = "|".join(str(i) for i in range(MOST_TEXTS))
    assert len(read_schedule(f"[{options}]", 500)) == 500
    with pytest.raises(PromptError, match="more than 100 different texts"):
        read_schedule(f"[{options}|more]", 500)


_PROMPTS = st.text(alphabet="ab []():|\\01.5", max_size=200) | st.text(max_size=100)


@given(_PROMPTS, st.integers(1, 40))
def test_any_text_has_a_whole_schedule_of_what_it_holds(text: str, evaluations: int) -> None:
    spans = read_schedule(text, evaluations)
    ends = [span.until for span in spans]
    assert ends == sorted(set(ends))
    assert ends[-1] == evaluations
    for span in spans:
        rest = iter(text)
        assert all(character in rest for character in span.text)  # nothing new, and nothing in another order
    for before, after in pairwise(spans):
        assert before.text != after.text


@given(st.text(alphabet="ab []()\\,.é猫01", max_size=200), st.integers(1, 40))
def test_a_text_without_colons_and_bars_is_itself(text: str, evaluations: int) -> None:
    assert read_schedule(text, evaluations) == (Span(evaluations, text),)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[a" * 25_000 + ":3]" * 25_000, "[a|" * 25_000 + "b" + "]" * 25_000, "[a:b:3]" * 14_000,
     "[:" * 33_000 + "]" * 33_000, ":" * 100_000, "[a:" + "9" * 100_000 + "]", "\\" * 99_999],
)  # fmt: skip
def test_work_grows_with_the_length_alone(text: str) -> None:
    """Each takes a second at most; one that was quadratic would take hours, one that recurs would fail."""
    read_schedule(text, 20)
