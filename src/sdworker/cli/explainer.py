"""`python -m sdworker.cli.explainer`: how long prompts are, asked and answered in lines of JSON.

The page's token counter: `sdworker serve` keeps one of these. A line is a job's input; its answer is
`{"prompt": {"tokens", "room", "chunks": [{"tokens", "end"}]}, "negative_prompt": …}`, or `{"error": …}`. Ends with
its input.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from sdworker.cli.prompt_reader import PromptReader
from sdworker.engine.text.chunks import Chunk, count_tokens
from sdworker.engine.text.prompt import PlannedPart, Text
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.errors import UserError

__all__ = ["explained", "main"]

_END_TOKENS = 8
_NOTHING: dict[str, Any] = {"tokens": 0, "chunks": []}


def main() -> None:
    """Answer until there are no more lines."""
    reader = PromptReader()
    for line in sys.stdin:
        print(json.dumps(explained(reader, line)), flush=True)


def explained(reader: PromptReader, line: str) -> dict[str, Any]:
    """One answer; a line that makes no sense costs nothing but itself."""
    try:
        read = reader.read(json.loads(line))
    except UserError as error:
        return {"error": str(error)}
    except (ValueError, RecursionError) as error:
        return {"error": f"the line is no input: {error}"}
    negative = [read.negative] if read.negative else []
    return {
        "prompt": _told(read.parts, reader.tokenizer),
        "negative_prompt": _told(negative, reader.tokenizer),
    }


def _told(parts: Iterable[PlannedPart], tokenizer: ClipTokenizer) -> dict[str, Any]:
    """Of all texts that are said at some time, the longest."""
    texts = [text for part in parts for _, text in part.spans]
    if not texts:
        return {**_NOTHING, "room": tokenizer.room}

    def length(text: Text) -> int:
        return count_tokens(text.chunks, tokenizer.room)

    longest = max(texts, key=length)
    chunks = [{"tokens": chunk.used, "end": _end(chunk, tokenizer)} for chunk in longest.chunks]
    return {"tokens": length(longest), "room": tokenizer.room, "chunks": chunks}


def _end(chunk: Chunk, tokenizer: ClipTokenizer) -> str:
    """A chunk's last words, so that one finds its end in the text."""
    inserted = {i for insert in chunk.inserts for i in range(insert.start, insert.start + insert.vectors)}
    places = range(max(1, 1 + chunk.used - _END_TOKENS), 1 + chunk.used)
    return "".join(tokenizer.word(chunk.tokens[i]) for i in places if i not in inserted).strip()


if __name__ == "__main__":
    main()
