"""What a caption promises, whichever way it is dressed."""

import random
import re

import pytest
from builder.emoji.captions import article, caption, plain
from builder.emoji.pictures import COLOURS

MANY = 400


def captions_of(name: str, colour: str, seed: int = 0) -> list[str]:
    choice = random.Random(seed)
    return [caption(name, ["animal", "pet", "puppy"], colour, choice) for _ in range(MANY)]


class TestCaption:
    def test_has_every_word_of_the_name(self) -> None:
        for text in captions_of("dog face", "white"):
            assert {"dog", "face"} <= set(re.findall(r"\w+", text))

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
