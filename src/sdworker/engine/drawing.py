"""What the engine is asked for."""

from dataclasses import dataclass, field

import numpy as np

from sdworker.engine.controls.control import Control
from sdworker.reading import Reading

__all__ = ["Drawing"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """What to draw, checked and complete.

    Attributes:
        width, height: in pixels, multiples of 8.
        sampler: canonical name (`sdworker/samplers.py`).
        seeds: one for each image.
        image: uint8 [height, width, 3] to start from, or None.
        mask: uint8 [height, width], 255 where `image` is repainted, or None.
        strength: how much of `image` is given up, 0 < strength ≤ 1.
        reading: how the prompts are read.
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
    mask: np.ndarray | None = None
    strength: float = 1.0
    reading: Reading = field(default_factory=Reading)
    controls: tuple[Control, ...] = ()
