"""Who is on board of the engine, and how each leaves it when something goes wrong with it or it is not wanted any
more: alone, whatever happens to it. On the engine's thread only."""

from collections.abc import Sequence
from typing import Any

import torch

from sdworker.engine.chores import Chore, Chores
from sdworker.engine.errors import EngineError, explain, is_fatal
from sdworker.engine.generation import Generation
from sdworker.engine.roster import Roster

__all__ = ["Board"]


class Board:
    """Generations and chores, from their admission until they are handed over.

    Attributes:
        generations: those that have steps left, waiting or live, in order of arrival.
        leaving: those whose images are being decoded.
        chores: what is to be done beside steps.
        arriving: chores that are done, and whose results are on their way from the device.
    """

    def __init__(self, roster: Roster) -> None:
        """
        Args:
            roster: the models whose spare memory is given back where memory lacks.
        """
        self.generations: list[Generation] = []
        self.leaving: list[Generation] = []
        self.chores = Chores()
        self.arriving: list[Chore[Any]] = []
        self._roster = roster

    @property
    def is_busy(self) -> bool:
        return bool(self.generations or self.leaving or self.chores or self.arriving)

    @property
    def live(self) -> list[Generation]:
        """Those that can take part in a step."""
        return [one for one in self.generations if one.is_live]

    def drop_cancelled(self) -> None:
        """Those that nobody wants any more leave."""
        on_board = [*self.generations, *self.leaving]
        self.fail([one for one in on_board if one.cancelled], EngineError("cancelled"))
        for chore in self.chores.cancelled():
            self.fail_chore(chore, EngineError("cancelled"))

    def fail(self, generations: Sequence[Generation], error: Exception) -> None:
        """These cannot be drawn; the others go on.

        Raises:
            Exception: the error itself, if it means that nothing can be drawn any more.
        """
        if is_fatal(error):
            raise error
        for generation in generations:
            for place in (self.generations, self.leaving):
                if generation in place:
                    place.remove(generation)
            for chore in generation.chores:
                self._forget(chore)
            generation.fail(explain(generation.drawing, error, generation.model.dtype))
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            self._roster.free_memory()

    def fail_chore(self, chore: Chore[Any], error: Exception) -> None:
        """It cannot be done, and with it the drawing whose it is; the others go on.

        Raises:
            Exception: as `fail`.
        """
        if is_fatal(error):
            raise error
        self._forget(chore)
        owner = next((one for one in self.leaving if chore in one.chores), None)
        if owner is not None:
            self.fail([owner], error)
        chore.fail(error)

    def fail_all(self, error: Exception) -> None:
        """Nobody can be served.

        Raises:
            Exception: as `fail`.
        """
        self.fail([*self.generations, *self.leaving], error)
        for chore in [*self.chores.clear(), *self.arriving]:
            self.fail_chore(chore, error)

    def clear(self) -> list[Generation | Chore[Any]]:
        """All there are; and there are none any more."""
        left: list[Generation | Chore[Any]] = [*self.generations, *self.leaving]
        left += [*self.chores.clear(), *self.arriving]
        self.generations.clear()
        self.leaving.clear()
        self.arriving.clear()
        return left

    def _forget(self, chore: Chore[Any]) -> None:
        self.chores.remove(chore)
        if chore in self.arriving:
            self.arriving.remove(chore)
