"""What becomes of pictures that the safety checker flags (docs/safety.md)."""

import asyncio
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from sdworker.engine.engine import Engine
from sdworker.engine.safety import SafetyChecker
from sdworker.request import Request
from sdworker.settings import Safety, Settings

__all__ = ["SafetyGuard"]

# Of a picture's longer side: the radius of the blur. Faces and bodies are gone; colours and layout stay.
_BLUR = 1 / 16


class SafetyGuard:
    """A checker and what a deployment does with its judgement."""

    def __init__(self, checker: SafetyChecker, mode: Safety, settings: Settings) -> None:
        """
        Args:
            mode: not `off`.
        """
        self._checker = checker
        self._mode = mode
        self._may_be_lifted = settings.nsfw_override

    def looks_at(self, request: Request) -> bool:
        """Whether this job's pictures are judged."""
        return not (self._may_be_lifted and request.nsfw)

    async def judge(self, engine: Engine, images: Sequence[np.ndarray]) -> list[bool]:
        """Which of them are flagged, each by itself.

        Raises:
            EngineError: they could not be judged.
        """
        prepared = await asyncio.gather(*(asyncio.to_thread(self._checker.prepare, one) for one in images))
        return await engine.do([self._checker.chore(one) for one in prepared])

    def treat(self, pixels: np.ndarray) -> np.ndarray:
        """A flagged picture, uint8 [h, w, 3], as it is returned; for any thread."""
        if self._mode is Safety.BLACK:
            return np.zeros_like(pixels)
        if self._mode is Safety.BLUR:
            radius = _BLUR * max(pixels.shape[:2])
            return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
        return pixels
