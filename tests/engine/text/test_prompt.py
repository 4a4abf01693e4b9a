"""A whole prompt, planned: its limits, and what is the same wherever it is planned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.prompt import plan_negative_prompt, plan_prompt, read_text
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.reading import Reading

WEIGHTS, PLAIN = Reading(), Reading(syntax="plain")


def test_an_evaluation_has_the_text_of_its_span(tokenizer: ClipTokenizer) -> None:
    (part,) = plan_prompt("a [sun:moon:3]", tokenizer, evaluations=10, reading=WEIGHTS)
    sun, moon = (read_text(text, tokenizer, WEIGHTS) for text in ("a sun", "a moon"))
    assert [part.at(i) for i in range(10)] == [sun] * 4 + [moon] * 6
    assert part.at(99) == moon


def test_equal_texts_are_equal_wherever_they_come_from(tokenizer: ClipTokenizer) -> None:
    one, other = plan_prompt("a [b|c|b] AND a c", tokenizer, evaluations=3, reading=WEIGHTS)
    assert one.at(0) == one.at(2) != one.at(1) == other.at(0)
    assert len({one.at(0), one.at(2), one.at(1), other.at(0)}) == 2


def test_plain_syntax_takes_every_character_as_text(tokenizer: ClipTokenizer) -> None:
    text = r"a (red:1.4) [sun:moon:3] \( BREAK b AND c :2"
    (part,) = plan_prompt(text, tokenizer, evaluations=10, reading=PLAIN)
    (chunk,) = part.at(0).chunks
    assert part.spans == ((10, part.at(0)),)
    assert part.weight == 1
    assert list(chunk.tokens[1 : 1 + chunk.used]) == tokenizer.encode(text)
    assert set(chunk.weights) == {1}
    assert plan_negative_prompt(text, tokenizer, evaluations=10, reading=PLAIN) == part


def test_a_prompt_without_syntax_is_the_same_either_way(tokenizer: ClipTokenizer) -> None:
    text = "a red apple: 16:9 | on a table, it's " * 5
    assert plan_prompt(text, tokenizer, evaluations=9, reading=WEIGHTS) == plan_prompt(
        text, tokenizer, evaluations=9, reading=PLAIN
    )


def test_a_negative_prompt_has_weights_and_schedules_but_no_parts(tokenizer: ClipTokenizer) -> None:
    part = plan_negative_prompt("[a:(b:1.5):3] AND c :2", tokenizer, evaluations=10, reading=WEIGHTS)
    assert part.at(0) == read_text("a AND c :2", tokenizer, WEIGHTS)
    assert part.at(4) == read_text("(b:1.5) AND c :2", tokenizer, WEIGHTS)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (red:10.1) heart", r"a weight of 10.1 is out of range; allowed: from -10 to 10"),
        ("a (red:-11)", r"a weight of -11 is out of range; allowed: from -10 to 10"),
        ("((red:5):3)", r"a weight of 15 is out of range; allowed: from -10 to 10"),
        ("(" * 4096 + "red", r"a weight of 3.*e\+169 is out of range; allowed: from -10 to 10"),
        ("(red:" + "9" * 4000 + ")", r"a weight of inf is out of range; allowed: from -10 to 10"),
        ("(x:99999999999999999999999999) " + "very " * 30, r"a weight of 1e\+26 is out of range"),
        ("[a:(b:11):3]", r"a weight of 11 is out of range; allowed: from -10 to 10"),
        ("a AND b :11", r"a weight of 11 is out of range; allowed: from -10 to 10"),
        ("a " * 800, r"is 800 tokens long; allowed: at most 750 \(MAX_PROMPT_TOKENS\), 50 less"),
        ("a BREAK " * 11, r"is 751 tokens long, with the padding that BREAK and commas bring; .*, 1 less"),
        ("a" + " AND a" * 16, r"AND joins 17 prompts; allowed: at most 16"),
        ("[" + "|".join("ab" * i for i in range(200)) + "]", r"more than 100 different texts"),
    ],
)
def test_what_is_out_of_range_is_told(tokenizer: ClipTokenizer, prompt: str, message: str) -> None:
    with pytest.raises(PromptError, match=message) as refused:
        plan_prompt(prompt, tokenizer, evaluations=1000, reading=WEIGHTS)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "prompt",
    ["(a:10)", "(a:-10)", "(" * 4096, "[" * 4096 + "a", ")" * 300, "a " * 750, "a BREAK " * 10, "AND", "AND AND",
     "[a:b:1000000]", "(:99)", "(   :99) a", "()" * 2000, "[|]", "[::]", ":" * 300, "BREAK", "a AND b :10"],
)  # fmt: skip
def test_what_is_odd_but_within_range_is_planned(tokenizer: ClipTokenizer, prompt: str) -> None:
    for part in plan_prompt(prompt, tokenizer, evaluations=20, reading=WEIGHTS):
        assert part.at(0).chunks


def test_the_limit_can_be_set(tokenizer: ClipTokenizer) -> None:
    reading = Reading(most_tokens=100)
    assert len(read_text("a " * 100, tokenizer, reading).chunks) == 2
    with pytest.raises(PromptError, match="is 101 tokens long; allowed: at most 100"):
        read_text("a " * 101, tokenizer, reading)


@given(st.text(alphabet="ab ,()[]:|\\01.5-", max_size=200) | st.text(max_size=100), st.integers(1, 30))
def test_any_prompt_is_planned_or_refused(tokenizer: ClipTokenizer, prompt: str, evaluations: int) -> None:
    try:
        parts = plan_prompt(prompt, tokenizer, evaluations=evaluations, reading=WEIGHTS)
    except PromptError as refused:
        assert "allowed" in str(refused)  # noqa: PT017
        return
    assert all(part.at(i).chunks for part in parts for i in range(evaluations))
