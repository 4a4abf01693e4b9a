"""What is known of a drawing before anything of it is encoded: enough to choose who shares a step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.prompt import Text

__all__ = ["Guidance", "Plan", "length_together"]

# One drawing's texts, repeated to one length, may come to so many times the longest: more than any two of up to
# ten chunks come to. Four of 5, 7, 8 and 9 chunks would come to 2,520.
_MOST_TILED = 10


@dataclass(frozen=True)
class Guidance:
    """Which rows an image has in a UNet batch, and how what the UNet says of them becomes one answer.

    Classifier-free guidance: without a prompt + Σ weight · scale · (with it − without), over one prompt or several
    that are composed.

    Attributes:
        scale: how strongly the prompts pull.
        weights: one for each prompt.
        guided: whether a row without a prompt goes before those with one. Where none does, there is one row, and
            what the UNet says of it is the answer.
    """

    scale: float
    weights: tuple[float, ...] = (1.0,)
    guided: bool = True

    @property
    def rows(self) -> int:
        """Of one image."""
        return len(self.weights) + self.guided

    def combine(self, predicted: torch.Tensor) -> torch.Tensor:
        """[rows · images, c, h, w], the first row of every image first, → [images, c, h, w]."""
        if not self.guided:
            return predicted
        plain, *prompted = predicted.chunk(self.rows)
        return plain + sum(
            weight * self.scale * (one - plain) for weight, one in zip(self.weights, prompted, strict=True)
        )


@dataclass(frozen=True)
class Plan:
    """How a drawing will be told to the UNet, step by step.

    Attributes:
        guidance: its rows.
        text_lengths: of each of its conditionings the length of the texts in tokens. A drawing has one, or several
            where its prompt changes on the way.
        stages: of each evaluation the number of its conditioning.
        texts: of each conditioning the texts of one image's rows.
        memory_bytes: what the conditionings hold on the device.
    """

    guidance: Guidance
    text_lengths: tuple[int, ...]
    stages: tuple[int, ...]
    texts: tuple[tuple[Text, ...], ...] = ()
    memory_bytes: int = 0

    def text_length(self, evaluation: int) -> int:
        """In tokens, of what the UNet is told at an evaluation."""
        return self.text_lengths[self.stages[evaluation]]


def length_together(texts: Iterable[Text]) -> int:
    """In tokens, the length that an image's texts have once each is repeated to the same (`Conditioning.cat`).

    Raises:
        PromptError: it is out of proportion, and every step would be.
    """
    lengths = sorted({text.length for text in texts})
    together = math.lcm(*lengths)
    if together > _MOST_TILED * lengths[-1]:
        chunk = math.gcd(*lengths)
        counts = [length // chunk for length in lengths]
        raise PromptError(
            f"the texts of one image have {', '.join(map(str, counts[:-1]))} and {counts[-1]} chunks, which only "
            f"{together // chunk} can be made of all of; allowed: {_MOST_TILED} times the longest; let some have "
            "as many chunks as another (BREAK ends one), or leave out what AND joins"
        )
    return together
