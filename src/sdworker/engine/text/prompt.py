"""A prompt as what has to be encoded: which texts, in which chunks, when and with what share. Pure: no tensors.

    prompt → parts joined by AND (`schedule.py`) → texts by evaluation → fragments with weights (`weights.py`)
           → chunks of tokens (`chunks.py`)

The same for counting tokens, for explaining a prompt and for drawing it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sdworker.engine.text.chunks import Chunk, Vocabulary, count_tokens, make_chunks
from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.schedule import Part, Span, read_parts, read_schedule
from sdworker.engine.text.weights import Fragment, read_weights
from sdworker.reading import Emphasis, Reading

__all__ = [
    "LARGEST_WEIGHT",
    "PlannedPart",
    "Text",
    "plan_negative_prompt",
    "plan_prompt",
    "read_text",
]

LARGEST_WEIGHT = 10.0
_NO_EMBEDDINGS: Mapping[str, int] = {}


@dataclass(frozen=True)
class Text:
    """What is encoded: equal ones give equal embeddings.

    Attributes:
        chunks: at least one.
    """

    chunks: tuple[Chunk, ...]
    emphasis: Emphasis = "original"
    clip_skip: int = 0

    @property
    def length(self) -> int:
        """Tokens of its embedding."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True)
class PlannedPart:
    """One of the prompts that `AND` joins.

    Attributes:
        weight: its share of the guidance.
        spans: (until, text): the text counts at the evaluations before `until` that no earlier span has.
    """

    weight: float
    spans: tuple[tuple[int, Text], ...]

    def at(self, evaluation: int) -> Text:
        """The text that counts at an evaluation; behind the last span it stays."""
        return next((text for until, text in self.spans if evaluation < until), self.spans[-1][1])


def plan_prompt(
    prompt: str,
    vocabulary: Vocabulary,
    *,
    evaluations: int,
    reading: Reading,
    embeddings: Mapping[str, int] = _NO_EMBEDDINGS,
) -> tuple[PlannedPart, ...]:
    """A prompt's parts, one unless it has an `AND`.

    Args:
        evaluations: the sampler's steps, twice as many for one of second order.
        embeddings: name → number of vectors.

    Raises:
        PromptError: a number is out of range, or something is too long or too many.
    """
    with _errors_named("prompt"):
        if reading.syntax == "plain":
            parts: tuple[Part, ...] = (Part(1.0, (Span(evaluations, prompt),)),)
        else:
            parts = read_parts(prompt, evaluations)
        for part in parts:
            _check_weight(part.weight)
        return tuple(_plan(part, vocabulary, reading, embeddings) for part in parts)


def plan_negative_prompt(
    prompt: str,
    vocabulary: Vocabulary,
    *,
    evaluations: int,
    reading: Reading,
    embeddings: Mapping[str, int] = _NO_EMBEDDINGS,
) -> PlannedPart:
    """The same for a negative prompt, in which `AND` is a word like others."""
    with _errors_named("negative_prompt"):
        spans: tuple[Span, ...] = (Span(evaluations, prompt),)
        if reading.syntax != "plain":
            spans = read_schedule(prompt, evaluations)
        return _plan(Part(1.0, spans), vocabulary, reading, embeddings)


def read_text(
    text: str, vocabulary: Vocabulary, reading: Reading, embeddings: Mapping[str, int] = _NO_EMBEDDINGS
) -> Text:
    """A text without schedule, ready to be encoded.

    Raises:
        PromptError: a weight is out of range, or the text is too long.
    """
    fragments = [Fragment(text)] if reading.syntax == "plain" else read_weights(text)
    for fragment in fragments:
        if fragment.text.strip():
            _check_weight(fragment.weight)
    chunks = make_chunks(fragments, vocabulary, embeddings)
    _check_length(chunks, vocabulary, reading)
    return Text(chunks, reading.emphasis, reading.clip_skip)


@contextmanager
def _errors_named(field: str) -> Iterator[None]:
    """What is wrong is told with the field it is in."""
    try:
        yield
    except PromptError as error:
        raise PromptError(f"{field}: {error}") from None


def _plan(part: Part, vocabulary: Vocabulary, reading: Reading, embeddings: Mapping[str, int]) -> PlannedPart:
    texts = {span.text: None for span in part.spans}
    read = {text: read_text(text, vocabulary, reading, embeddings) for text in texts}
    return PlannedPart(part.weight, tuple((span.until, read[span.text]) for span in part.spans))


def _check_weight(weight: float) -> None:
    """Errors quote no prompt: it is nobody's but its writer's."""
    if not -LARGEST_WEIGHT <= weight <= LARGEST_WEIGHT:
        raise PromptError(
            f"a weight of {weight:.4g} is out of range; allowed: from -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, "
            "where brackets nest their product"
        )


def _check_length(chunks: tuple[Chunk, ...], vocabulary: Vocabulary, reading: Reading) -> None:
    tokens = count_tokens(chunks, vocabulary.room)
    if tokens > reading.most_tokens:
        padded = _is_padded(chunks, vocabulary.room)
        raise PromptError(
            f"is {tokens} tokens long{', with the padding that BREAK and commas bring' if padded else ''}; "
            f"allowed: at most {reading.most_tokens} (MAX_PROMPT_TOKENS), {tokens - reading.most_tokens} less"
        )


def _is_padded(chunks: Iterable[Chunk], room: int) -> bool:
    *full, _ = chunks
    return any(chunk.used < room for chunk in full)
