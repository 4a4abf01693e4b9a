"""A text as chunks of tokens, as AUTOMATIC1111's web UI fills them for CLIP's encoder. Pure: no tensors.

A chunk is BOS, up to 75 tokens, EOS, and padding. A list of things is not torn apart: when a chunk is full and its
last comma is near its end, what follows the comma moves to the next chunk. `BREAK` ends a chunk, and so does an
embedding (textual inversion) that does not fit whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.weights import Fragment

__all__ = ["Chunk", "Insert", "Vocabulary", "count_tokens", "make_chunks"]

_COMMA_REACH = 20  # so many tokens back at most is the comma after which a full chunk ends
_PLACEHOLDER = 0  # the token at the place of an embedding's vector
_NO_EMBEDDINGS: Mapping[str, int] = {}


class Vocabulary(Protocol):
    """A tokenizer, as far as chunks need it.

    Attributes:
        room: tokens of a text that a chunk holds; 75.
        bos, eos, pad: ids of the tokens around them.
        comma: id of a comma that ends a word; None: there is none.
    """

    room: int
    bos: int
    eos: int
    pad: int
    comma: int | None

    def encode(self, text: str, /) -> list[int]:
        """A text's ids, without what stands around them."""

    def ends_word(self, token: int, /) -> bool:
        """Whether a word ends with this token, rather than going on."""


@dataclass(frozen=True)
class Insert:
    """An embedding's vectors stand in for tokens.

    Attributes:
        name: the embedding's.
        start: its first vector's place in the chunk, BOS being 0.
        vectors: how many it has.
    """

    name: str
    start: int
    vectors: int


@dataclass(frozen=True)
class Chunk:
    """What the encoder takes at once.

    Attributes:
        tokens: ids, BOS, EOS and padding included: as many as the encoder has positions.
        weights: one for each token; 1 for BOS, EOS and padding.
        inserts: embeddings in place of tokens.
        used: tokens of the text, without BOS, EOS and padding.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    inserts: tuple[Insert, ...] = ()
    used: int = 0


def count_tokens(chunks: Sequence[Chunk], room: int) -> int:
    """How long a text is: all chunks but the last count whole, whatever fills them."""
    return room * (len(chunks) - 1) + chunks[-1].used


def make_chunks(
    fragments: Iterable[Fragment], vocabulary: Vocabulary, embeddings: Mapping[str, int] = _NO_EMBEDDINGS
) -> tuple[Chunk, ...]:
    """A text's chunks, at least one.

    Args:
        embeddings: name → number of vectors. A name in the text, as whole words, in whatever case and however
            spaced, stands for its embedding; the longest name first.

    Raises:
        PromptError: an embedding is longer than a chunk.
    """
    names = _index(vocabulary, embeddings)
    writer = _Writer(vocabulary)
    for fragment in fragments:
        if fragment.breaks:
            writer.close()
        tokens = vocabulary.encode(fragment.text)
        position, begins_word = 0, True
        while position < len(tokens):
            token = tokens[position]
            found = _find(names, tokens, position) if begins_word and token in names else None
            if found is None:
                writer.add(token, fragment.weight)
                position += 1
                begins_word = not names or vocabulary.ends_word(token)
            else:
                writer.insert(found.name, found.vectors, fragment.weight)
                position += len(found.tokens)
    return writer.finish()


@dataclass(frozen=True)
class _Name:
    name: str
    tokens: list[int]
    vectors: int


def _index(vocabulary: Vocabulary, embeddings: Mapping[str, int]) -> dict[int, list[_Name]]:
    """First token → the names that begin with it, the longest first."""
    index: dict[int, list[_Name]] = {}
    for name, vectors in embeddings.items():
        if tokens := vocabulary.encode(name):
            index.setdefault(tokens[0], []).append(_Name(name, tokens, vectors))
    for names in index.values():
        names.sort(key=lambda name: -len(name.tokens))
    return index


def _find(names: Mapping[int, list[_Name]], tokens: list[int], position: int) -> _Name | None:
    for name in names[tokens[position]]:
        if tokens[position : position + len(name.tokens)] == name.tokens:
            return name
    return None


@dataclass
class _Writer:
    """Fills chunk after chunk."""

    vocabulary: Vocabulary
    chunks: list[Chunk] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    inserts: list[Insert] = field(default_factory=list)
    comma: int | None = None  # where in the chunk at hand the last one is

    def add(self, token: int, weight: float) -> None:
        if len(self.tokens) == self.vocabulary.room:
            self._end_full(token)
        if token == self.vocabulary.comma:
            self.comma = len(self.tokens)
        self.tokens.append(token)
        self.weights.append(weight)

    def insert(self, name: str, vectors: int, weight: float) -> None:
        room = self.vocabulary.room
        if vectors > room:
            raise PromptError(f"the embedding {name} has {vectors} vectors; a chunk holds {room}")
        if len(self.tokens) == room:
            self._end_full(_PLACEHOLDER)
        if len(self.tokens) + vectors > room:
            self.close()
        self.inserts.append(Insert(name, 1 + len(self.tokens), vectors))
        self.tokens.extend([_PLACEHOLDER] * vectors)
        self.weights.extend([weight] * vectors)

    def close(self) -> None:
        """End the chunk at hand, even an empty one."""
        words, used = self.vocabulary, len(self.tokens)
        padding = words.room - used
        self.chunks.append(
            Chunk(
                (words.bos, *self.tokens, words.eos, *[words.pad] * padding),
                (1.0, *self.weights, *[1.0] * (1 + padding)),
                tuple(self.inserts),
                used,
            )
        )
        self.tokens, self.weights, self.inserts, self.comma = [], [], [], None

    def finish(self) -> tuple[Chunk, ...]:
        if self.tokens or not self.chunks:
            self.close()
        return tuple(self.chunks)

    def _end_full(self, coming: int) -> None:
        """End a full chunk before `coming`; what follows a comma near its end goes on to the next one."""
        room = self.vocabulary.room
        if coming == self.vocabulary.comma or self.comma is None or room - self.comma > _COMMA_REACH:
            self.close()
            return
        cut = self.comma + 1
        tokens, weights = self.tokens[cut:], self.weights[cut:]
        inserts = [insert for insert in self.inserts if insert.start > cut]
        self.tokens, self.weights = self.tokens[:cut], self.weights[:cut]
        self.inserts = [insert for insert in self.inserts if insert.start <= cut]
        self.close()
        self.tokens, self.weights = tokens, weights
        self.inserts = [Insert(insert.name, insert.start - cut, insert.vectors) for insert in inserts]
