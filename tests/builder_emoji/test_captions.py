"""What a caption promises, whichever way it is dressed."""

import random
import re

import pytest
from builder.emoji import evaluate
from builder.emoji.captions import article, caption, nouns, plain, plural
from builder.emoji.pictures import COLOURS

MANY = 400


def captions_of(name: str, colour: str, seed: int = 0) -> list[str]:
    choice = random.Random(seed)
    return [caption(name, ["animal", "pet", "puppy"], colour, choice) for _ in range(MANY)]


class TestCaption:
    def test_has_every_word_of_the_name_or_asks_by_a_tag(self) -> None:
        for text in captions_of("dog face", "white"):
            words = set(re.findall(r"\w+", text))
            assert {"dog", "face"} <= words or {"dog", "faces"} <= words or {"animal", "pet", "puppy"} & words

    def test_most_have_every_word_of_the_name(self) -> None:
        named = ["dog" in text and "face" in text for text in captions_of("dog face", "white")]
        assert sum(named) > MANY * 0.8

    def test_none_is_a_prompt_that_free_prompts_are_measured_with(self) -> None:
        choice = random.Random(0)
        seen = {caption("dog", ["animal", "pet"], "white", choice) for _ in range(20_000)}
        asked = {
            template.format(noun="dog", plural="dogs", article="a dog")
            for template in evaluate.FREE_TEMPLATES
        }
        assert not seen & asked

    @pytest.mark.parametrize("colour", [colour for colour in COLOURS if colour != "white"])
    def test_always_names_a_background_that_is_not_white(self, colour: str) -> None:
        assert all(colour in text for text in captions_of("dog face", colour))

    def test_seldom_names_a_white_background(self) -> None:
        assert 0 < sum("white" in text for text in captions_of("dog face", "white")) < MANY / 5

    def test_is_often_the_plain_name_and_comes_in_many_ways(self) -> None:
        texts = captions_of("dog face", "white")
        assert texts.count("dog face") > MANY / 4
        assert len(set(texts)) > MANY / 4

    def test_is_the_same_for_the_same_seed(self) -> None:
        assert captions_of("dog face", "red", seed=3) == captions_of("dog face", "red", seed=3)

    def test_needs_no_tags(self) -> None:
        choice = random.Random(0)
        assert all("key" in caption("key", [], "white", choice) for _ in range(MANY))


def test_plain_mentions_only_colours_that_are_not_the_default() -> None:
    assert plain("dog") == "dog"
    assert plain("dog", "blue") == "dog on a blue background"


@pytest.mark.parametrize(("words", "expected"), [("owl", "an owl"), ("dog", "a dog"), ("Eye", "an Eye")])
def test_article(words: str, expected: str) -> None:
    assert article(words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cherry", "cherries"),
        ("dog face", "dog faces"),
        ("box", "boxes"),
        ("key", "keys"),
        ("dish", "dishes"),
    ],
)
def test_plural(words: str, expected: str) -> None:
    assert plural(words) == expected


def test_nouns_are_tags_that_are_words() -> None:
    assert nouns(["143", "...", "x", "dog", "it"]) == ["dog"]
