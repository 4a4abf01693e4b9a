"""How a prompt is read, in lines for people: parts, schedule, chunks, weights. Pure: no tensors."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from sdworker.engine.text.chunks import Chunk, count_tokens
from sdworker.engine.text.prompt import PlannedPart, Text
from sdworker.engine.text.tokens import ClipTokenizer

__all__ = ["explain_prompt"]


def explain_prompt(parts: Sequence[PlannedPart], tokenizer: ClipTokenizer) -> Iterator[str]:
    """Lines of text; tokens with another weight than 1 are written `(tokens:weight)`."""
    for number, part in enumerate(parts, start=1):
        if len(parts) > 1:
            yield f"prompt {number} of {len(parts)}, weight {part.weight:g}"
        begin = 0
        for until, text in part.spans:
            if len(part.spans) > 1:
                last = f" to {until - 1}" if until - 1 > begin else ""
                yield f"  at evaluation {begin}{last}:"
            yield from _explain_text(text, tokenizer)
            begin = until


def _explain_text(text: Text, tokenizer: ClipTokenizer) -> Iterator[str]:
    tokens, chunks = count_tokens(text.chunks, tokenizer.room), len(text.chunks)
    yield f"  {tokens} tokens in {chunks} chunk{'s' if chunks > 1 else ''} of {tokenizer.room}"
    for number, chunk in enumerate(text.chunks, start=1):
        yield f"    chunk {number}, {chunk.used} tokens: {_written(chunk, tokenizer)}"


def _written(chunk: Chunk, tokenizer: ClipTokenizer) -> str:
    """A chunk's tokens as words, with an embedding's name at the place of its vectors."""
    inserts = {insert.start: insert for insert in chunk.inserts}
    words: list[tuple[float, str]] = []
    position, end = 1, 1 + chunk.used
    while position < end:
        insert = inserts.get(position)
        word = tokenizer.word(chunk.tokens[position]) if insert is None else f"<{insert.name}> "
        words.append((chunk.weights[position], word))
        position += 1 if insert is None else insert.vectors
    runs = (
        (weight, "".join(word for _, word in run)) for weight, run in groupby(words, lambda word: word[0])
    )
    return " ".join(
        run.strip() if weight == 1 else f"({run.strip()}:{weight:.4g})" for weight, run in runs if run.strip()
    )
