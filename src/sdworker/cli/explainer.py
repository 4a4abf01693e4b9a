"""`python -m sdworker.cli.explainer`: what a job's input will come to, asked and answered in lines of JSON.

For the page: `sdworker serve` keeps one of these. It ends with its input. An answer may be `{"error": …}`.

- `{"prompts": INPUT}`, how long they are: `{"prompt": {"tokens", "room", "chunks": [{"tokens", "end"}]},
  "negative_prompt": …}`
- `{"hint": INPUT}`, what its first ControlNet is shown: `{"image", "width", "height"}`
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from sdworker.cli.hint_painter import HintPainter
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
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(json.dumps(explained(reader, line, runner)), flush=True)


def explained(reader: PromptReader, line: str, runner: asyncio.Runner) -> dict[str, Any]:
    """One answer; a line that makes no sense costs nothing but itself."""
    try:
        match json.loads(line):
            case {"prompts": dict(given)}:
                return _lengths(reader, given)
            case {"hint": dict(given)}:
                painter = HintPainter(reader.settings, reader.contract)
                return runner.run(painter.paint(given))
        return {"error": "the line asks for nothing that is known here"}
    except UserError as error:
        return {"error": str(error)}
    except (ValueError, RecursionError) as error:
        return {"error": f"the line is no JSON: {error}"}


def _lengths(reader: PromptReader, given: Mapping[str, Any]) -> dict[str, Any]:
    read = reader.read(given)
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
