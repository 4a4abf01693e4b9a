"""Waiting generations become live ones, when they would have part in a step and fit into memory; piece by piece,
so that those who live need not wait for all of it. On the engine's thread only."""

import time

import torch

from sdworker.engine.batch import choose, who_may_begin
from sdworker.engine.board import Board
from sdworker.engine.generation import Generation, Status
from sdworker.engine.roster import Roster

__all__ = ["Beginning"]

# Of a step's time, how long those that live are kept waiting for others to begin; once it is over, the piece at
# hand is the last.
_SHARE = 0.5


class Beginning:
    """Lets generations begin, one at a time."""

    def __init__(self, board: Board, roster: Roster, *, memory_bytes: int) -> None:
        """
        Args:
            memory_bytes: what those that have begun may hold on the device between steps.
        """
        self._board = board
        self._roster = roster
        self._memory_bytes = memory_bytes

    def begin_some(self, step_s: float) -> None:
        """Let those begin that would have part in the next step, piece by piece, for a part of a step's time.

        Whoever lives would have to wait for all of it; as long as nobody does, until the first one does.

        Args:
            step_s: what a step takes just now.
        """
        enough = time.perf_counter() + _SHARE * step_s
        while (generation := self._next()) is not None:
            self._begin_piece(generation)
            if time.perf_counter() >= enough and self._board.live:
                return

    def _next(self) -> Generation | None:
        """The one that has begun to begin, else the first of those who wait that would have part in a step."""
        generations = self._board.generations
        begun = next((one for one in generations if one.status is Status.BEGINNING), None)
        live = self._board.live
        if begun is not None or len(live) == len(generations):
            return begun
        free_bytes = self._memory_bytes - sum(one.memory_bytes for one in live)
        may = who_may_begin(generations, self._roster, free_bytes, lambda one: one.has_slots)
        return next((one for one in choose(may, self._roster) if not one.is_live), None)

    def _begin_piece(self, generation: Generation) -> None:
        """The next piece of its beginning; all of them once more with what can be freed, if memory lacks."""
        try:
            try:
                generation.begin_piece()
            except (torch.OutOfMemoryError, MemoryError):
                self._roster.free_memory()
                for _ in generation.begin():
                    pass
        except Exception as error:
            self._board.fail([generation], error)
