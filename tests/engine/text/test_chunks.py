"""Chunks, worked out by hand from AUTOMATIC1111's rules, with the embedded model's tokens."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.text.chunks import Chunk, Insert, count_tokens, make_chunks
from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.engine.text.weights import read_weights

A = "a "  # one token, in every vocabulary that was trained on English


def chunks_of(
    text: str, tokenizer: ClipTokenizer, embeddings: Mapping[str, int] | None = None
) -> tuple[Chunk, ...]:
    return make_chunks(read_weights(text), tokenizer, embeddings or {})


def words(chunk: Chunk, tokenizer: ClipTokenizer) -> str:
    return "".join(tokenizer.word(token) for token in chunk.tokens[1 : 1 + chunk.used])


# Each row: a text, and the tokens its chunks hold; `,` is one token.
TABLE: list[tuple[str, list[int]]] = [
    ("", [0]),
    ("a", [1]),
    (A * 75, [75]),
    (A * 76, [75, 1]),
    (A * 151, [75, 75, 1]),
    # A comma near the end: what follows it moves on.
    (A * 70 + "," + A * 10, [71, 10]),
    (A * 74 + "," + A * 3, [75, 3]),
    (A * 55 + "," + A * 30, [56, 30]),
    (A * 54 + "," + A * 30, [75, 10]),
    (A * 60 + "," + A * 5 + "," + A * 20, [67, 20]),
    (A * 60 + "," + A * 14, [75]),
    # The token at hand is a comma: the chunk is full as it is.
    (A * 60 + "," + A * 14 + ", " + A, [75, 2]),
    (A * 75 + "," + A * 75, [75, 75, 1]),
    # In the second chunk the commas of the first count no more.
    (A * 70 + "," + A * 80, [71, 75, 5]),
    ((A * 4 + ", ") * 40, [75, 75, 50]),
    ((A * 9 + ", ") * 20, [70, 70, 60]),
    # BREAK ends a chunk, even an empty one.
    ("a BREAK a", [1, 1]),
    ("BREAK a", [0, 1]),
    ("a BREAK", [1]),
    ("a BREAK BREAK a", [1, 0, 1]),
    (A * 80 + "BREAK " + A * 3, [75, 5, 3]),
    # Fragments are tokenised alone, and fill chunks together.
    ("(a a:1.5) a [a]", [4]),
    (A * 74 + "(a a:1.5)", [75, 1]),
    (A * 60 + ", (" + A * 20 + ":1.3)", [61, 20]),
]


@pytest.mark.parametrize(("text", "used"), TABLE)
def test_chunks_are_filled_as_the_rules_say(text: str, used: list[int], tokenizer: ClipTokenizer) -> None:
    chunks = chunks_of(text, tokenizer)
    assert [chunk.used for chunk in chunks] == used
    assert count_tokens(chunks, tokenizer.room) == 75 * (len(used) - 1) + used[-1]
    for chunk in chunks:
        assert len(chunk.tokens) == len(chunk.weights) == 77
        assert chunk.tokens[0] == tokenizer.bos
        assert chunk.tokens[1 + chunk.used] == tokenizer.eos
        assert set(chunk.tokens[2 + chunk.used :]) <= {tokenizer.pad}


def test_the_comma_stays_and_what_follows_moves_with_its_weights(tokenizer: ClipTokenizer) -> None:
    first, second = chunks_of(A * 70 + ", red (apple red apple:1.5) house", tokenizer)
    assert words(first, tokenizer).endswith("a a , ")
    assert words(second, tokenizer) == "red apple red apple house "
    assert second.weights[: 2 + 5] == (1, 1, 1.5, 1.5, 1.5, 1, 1)


def test_what_stands_around_a_text_has_weight_one(tokenizer: ClipTokenizer) -> None:
    (chunk,) = chunks_of("((red:2) apple:3)", tokenizer)
    assert chunk.weights == (1, 6, 3, *[1] * 74)


def test_a_plain_text_is_what_transformers_makes_of_it(tokenizer: ClipTokenizer, theirs: object) -> None:
    text = "a red apple, on a table"
    (chunk,) = chunks_of(text, tokenizer)
    assert list(chunk.tokens) == theirs(text, padding="max_length", max_length=77).input_ids  # type: ignore[operator]


@given(st.text(alphabet="ab, .()[]:", max_size=400), st.integers(0, 3))
def test_no_token_is_lost(tokenizer: ClipTokenizer, text: str, repeats: int) -> None:
    text *= 1 + repeats
    fragments = read_weights(text)
    wanted = [token for fragment in fragments for token in tokenizer.encode(fragment.text)]
    chunks = make_chunks(fragments, tokenizer)
    assert [token for chunk in chunks for token in chunk.tokens[1 : 1 + chunk.used]] == wanted
    assert all(chunk.used > 0 for chunk in chunks) or not wanted


class TestEmbeddings:
    NAMES: Mapping[str, int] = {"bad-hands": 8, "bad": 2, "huge": 75, "too-huge": 76, "red apple": 1}

    def test_a_name_stands_for_its_vectors(self, tokenizer: ClipTokenizer) -> None:
        (chunk,) = chunks_of("a (bad-hands:1.2) house", tokenizer, self.NAMES)
        assert chunk.inserts == (Insert("bad-hands", 2, 8),)
        assert chunk.used == 10
        assert chunk.weights[1:11] == (1, *[1.2] * 8, 1)
        assert chunk.tokens[2:10] == (0,) * 8

    def test_the_longest_name_counts(self, tokenizer: ClipTokenizer) -> None:
        (chunk,) = chunks_of("bad, bad-hands, bad hands", tokenizer, self.NAMES)
        assert [insert.name for insert in chunk.inserts] == ["bad", "bad-hands", "bad"]

    def test_case_and_spaces_do_not_matter_but_whole_words_do(self, tokenizer: ClipTokenizer) -> None:
        (chunk,) = chunks_of("BAD - Hands, Red   APPLE, badly, abad", tokenizer, self.NAMES)
        assert [insert.name for insert in chunk.inserts] == ["bad-hands", "red apple"]

    def test_one_that_does_not_fit_whole_begins_a_chunk(self, tokenizer: ClipTokenizer) -> None:
        assert [c.used for c in chunks_of(A * 67 + "bad-hands", tokenizer, self.NAMES)] == [75]
        first, second = chunks_of(A * 68 + "bad-hands a", tokenizer, self.NAMES)
        assert (first.used, second.used) == (68, 9)
        assert second.inserts == (Insert("bad-hands", 1, 8),)
        assert [c.used for c in chunks_of("a huge a", tokenizer, self.NAMES)] == [1, 75, 1]

    def test_one_behind_a_comma_moves_with_it(self, tokenizer: ClipTokenizer) -> None:
        first, second = chunks_of(A * 60 + ", a bad-hands a a a a a a", tokenizer, self.NAMES)
        assert (first.used, first.inserts) == (61, ())
        assert second.inserts == (Insert("bad-hands", 2, 8),)
        assert second.used == 15

    def test_one_before_the_comma_stays(self, tokenizer: ClipTokenizer) -> None:
        first, second = chunks_of("bad-hands" + " a" * 60 + ", a bad " + A * 10, tokenizer, self.NAMES)
        assert (first.used, first.inserts) == (69, (Insert("bad-hands", 1, 8),))
        assert (second.used, second.inserts) == (13, (Insert("bad", 2, 2),))

    def test_one_longer_than_a_chunk_is_refused(self, tokenizer: ClipTokenizer) -> None:
        with pytest.raises(PromptError, match="the embedding too-huge has 76 vectors; a chunk holds 75"):
            chunks_of("a too-huge house", tokenizer, self.NAMES)
