"""How prompts are read: what jobs and deployments may choose. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["MOST_SKIPPED", "MOST_TOKENS", "Emphasis", "PromptSyntax", "Reading", "reading_of"]

PromptSyntax = Literal["weights", "plain"]
Emphasis = Literal["original", "no_norm"]

MOST_SKIPPED = 31
"""Layers of a text encoder: the largest has 32, and one at least must run."""
MOST_TOKENS = 750
"""Of a text, where a deployment sets nothing: ten chunks."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How prompts are read.

    Attributes:
        syntax: `weights`: AUTOMATIC1111's; `plain`: every character is text.
        emphasis: what weights do: `original` keeps each chunk's mean as it was without them, `no_norm` does not.
        clip_skip: layers of the text encoder left out at its end.
        most_tokens: the longest text; 75 tokens are one chunk.
    """

    syntax: PromptSyntax = "weights"
    emphasis: Emphasis = "original"
    clip_skip: int = 0
    most_tokens: int = MOST_TOKENS


class _Asked(Protocol):
    """A job's request, as far as it says how its prompts are read."""

    @property
    def prompt_syntax(self) -> PromptSyntax: ...
    @property
    def emphasis(self) -> Emphasis: ...
    @property
    def clip_skip(self) -> int: ...


def reading_of(request: _Asked, *, most_tokens: int) -> Reading:
    """How a request's prompts are read."""
    return Reading(
        syntax=request.prompt_syntax,
        emphasis=request.emphasis,
        clip_skip=request.clip_skip,
        most_tokens=most_tokens,
    )
