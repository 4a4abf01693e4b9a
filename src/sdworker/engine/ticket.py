"""What the engine's callers hand to its thread: a drawing's ticket, or an errand."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

from sdworker.engine.costs import Shape
from sdworker.engine.drawing import Drawing
from sdworker.engine.generation import Generation
from sdworker.engine.vae import ComingImage

__all__ = ["Errand", "OnStep", "Ticket"]

log = logging.getLogger(__name__)

T = TypeVar("T")

OnStep = Callable[[int, int], None]
"""Called on the engine's thread after each step of a drawing: evaluations done, evaluations in all."""


class Ticket:
    """A submitted drawing: what came in, its generation once begun, and where its images go."""

    def __init__(self, drawing: Drawing, on_step: OnStep | None) -> None:
        self.drawing = drawing
        self.generation: Generation | None = None
        self.images: Future[list[np.ndarray]] = Future()
        self.coming: list[ComingImage] = []
        self.cancelled = False
        self.age = self.passed_over = 0.0
        self._on_step = on_step

    @property
    def begun(self) -> Generation:
        assert self.generation is not None
        return self.generation

    @property
    def rows(self) -> int:
        return self.begun.rows

    @property
    def shape(self) -> Shape:
        return self.begun.shape

    @property
    def evaluations(self) -> int:
        return self.begun.table.evaluations

    @property
    def evaluations_left(self) -> int:
        return self.begun.table.evaluations - self.begun.evaluation

    @property
    def finished(self) -> bool:
        return self.begun.finished

    def report(self) -> None:
        """Tell whoever asked how far it is; what they do wrong must not stop the engine."""
        if self._on_step is None:
            return
        try:
            self._on_step(self.begun.evaluation, self.begun.table.evaluations)
        except Exception:
            log.exception("on_step failed; it is not called again")
            self._on_step = None


class Errand(Generic[T]):
    """Something else to do on the engine's thread, and where its result goes."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.result: Future[T] = Future()
