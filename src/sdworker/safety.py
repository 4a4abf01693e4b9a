"""Which checker judges a model's pictures, and what becomes of those that it flags (docs/safety.md)."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from sdworker.engine.engine import Engine
from sdworker.engine.errors import EngineError
from sdworker.engine.model_config import ModelError
from sdworker.engine.safety import SafetyChecker, weights_of
from sdworker.engine.shelf import Shelf
from sdworker.request import Request
from sdworker.settings import Safety, Settings

__all__ = ["SafetyGuard", "SafetyGuards"]

log = logging.getLogger(__name__)

# Of checkers that are kept beside the first: two of Stable Diffusion's in half precision. The last one always is.
_KEPT_BYTES = 1300 * 2**20

# Of a picture's longer side: the radius of the blur. Faces and bodies are gone; colours and layout stay.
_BLUR = 1 / 16


class SafetyGuard:
    """A checker and what a deployment does with its judgement."""

    def __init__(self, checker: SafetyChecker, mode: Safety) -> None:
        """
        Args:
            mode: not `off`.
        """
        self._checker = checker
        self._mode = mode

    async def judge(self, engine: Engine, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], set[int]]:
        """The images as they are returned, each judged by itself, and the numbers of those that are flagged.

        Raises:
            EngineError: they could not be judged.
        """
        prepared = await asyncio.gather(*(asyncio.to_thread(self._checker.prepare, one) for one in images))
        verdicts = await engine.do([self._checker.chore(one) for one in prepared])
        flagged = {number for number, flag in enumerate(verdicts) if flag}
        treated = {number: await asyncio.to_thread(self._treat, images[number]) for number in flagged}
        return [treated.get(number, one) for number, one in enumerate(images)], flagged

    def _treat(self, pixels: np.ndarray) -> np.ndarray:
        """A flagged picture, uint8 [h, w, 3], as it is returned; for any thread."""
        if self._mode is Safety.BLACK:
            return np.zeros_like(pixels)
        if self._mode is Safety.BLUR:
            radius = _BLUR * max(pixels.shape[:2])
            return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
        return pixels


class SafetyGuards:
    """The checkers of a deployment's models: each judges its own model's pictures.

    The first model's is there from the start, the others are read when their models' first jobs come. For one
    event loop.
    """

    def __init__(
        self,
        places: Mapping[str, Path],
        first: SafetyChecker | None,
        settings: Settings,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            places: model → folder of its checker; without those that have none. The first model's `first` is.
        """
        self._places = places
        self._settings = settings
        self._mode = settings.safety or Safety.FLAG
        self._ready = {} if first is None else {next(iter(places.values())): first}
        load = partial(_load, device=device, dtype=dtype)
        self._shelf: Shelf[SafetyChecker] = Shelf(load, most_bytes=_KEPT_BYTES)

    async def of(self, model: str, request: Request, engine: Engine) -> SafetyGuard | None:
        """Whoever judges what a model draws for a request; None: nobody does.

        Raises:
            EngineError: its checker cannot be loaded, and what it does not judge is not drawn.
        """
        place = self._places.get(model)
        if place is None or (self._settings.nsfw_override and request.nsfw):
            return None
        checker = self._ready.get(place)
        if checker is None:
            try:
                _, checker = await self._shelf.read(weights_of(place), folder=place, engine=engine)
            except (ModelError, MemoryError, torch.OutOfMemoryError) as error:
                log.error("the safety checker of %s cannot be loaded: %s", model, error)
                raise EngineError(
                    f"model: the safety checker of {model} cannot be loaded at the moment, and without it nothing "
                    "is drawn; the worker's log has the cause"
                ) from error
        return SafetyGuard(checker, self._mode)


def _load(
    _weights: Path, *, folder: Path, engine: Engine, device: torch.device, dtype: torch.dtype
) -> SafetyChecker:
    checker = SafetyChecker.load(folder, device=device, dtype=dtype)
    engine.call(checker.try_out).result()
    return checker
