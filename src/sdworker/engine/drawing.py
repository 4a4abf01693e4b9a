"""What the engine is asked for."""

from dataclasses import dataclass, field

import numpy as np
import torch

from sdworker.engine.controls.control import Control
from sdworker.engine.lora import LoraUse
from sdworker.engine.text.embeddings import Embedding
from sdworker.reading import Reading

__all__ = ["Drawing", "Latents", "Standing"]


@dataclass(frozen=True, eq=False)
class Latents:
    """What an earlier pass ended with, to start from in another size.

    Attributes:
        values: [images, 4, h, w] in float32, finished; on the model's device.
        mode: of torch's `interpolate`, by which they come to size.
        antialias: likewise.
    """

    values: torch.Tensor
    mode: str = "bilinear"
    antialias: bool = False

    def enlarged(self, shape: tuple[int, int]) -> torch.Tensor:
        """[images, 4, *shape]."""
        if tuple(self.values.shape[-2:]) == shape:
            return self.values
        return torch.nn.functional.interpolate(
            self.values, size=shape, mode=self.mode, antialias=self.antialias
        )


@dataclass
class Standing:
    """How long a job has been here, which it keeps from pass to pass.

    Attributes:
        age, passed_over: seconds of steps since it was submitted, and of those it had no part in.
        before, after: evaluations of the passes before this one, and of those to come.
        to_come: the latter, counted in what one of the present pass costs.
    """

    age: float = 0.0
    passed_over: float = 0.0
    before: int = 0
    after: int = 0
    to_come: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """What to draw, checked and complete.

    Attributes:
        width, height: in pixels, multiples of 8.
        sampler: canonical name (`sdworker/samplers.py`).
        seeds: one for each image.
        image: uint8 [height, width, 3] to start from, or [images, height, width, 3] for each its own, or None.
        latents: of an earlier pass, to start from; or None.
        mask: uint8 [height, width], 255 where `image` is repainted, or None.
        strength: how much of what it starts from is given up, 0 < strength ≤ 1.
        span: from where to where in the noise schedule it goes; what begins later goes on from `latents` as they
            are, what ends earlier is not finished.
        reading: how the prompts are read.
        embeddings: what the prompts' words stand for that are their names.
        loras: what changes the model for this drawing; all of them add up.
        controls: ControlNets that lead it.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    sampler: str
    seeds: tuple[int, ...]
    image: np.ndarray | None = None
    latents: Latents | None = None
    mask: np.ndarray | None = None
    strength: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)
    reading: Reading = field(default_factory=Reading)
    embeddings: tuple[Embedding, ...] = ()
    loras: tuple[LoraUse, ...] = ()
    controls: tuple[Control, ...] = ()

    @property
    def starts_from_a_picture(self) -> bool:
        return self.image is not None or self.latents is not None
