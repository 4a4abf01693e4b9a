"""What is known of a drawing before anything of it is encoded: enough to choose who shares a step."""

from dataclasses import dataclass

import torch

from sdworker.engine.text.prompt import Text

__all__ = ["Guidance", "Plan"]


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
