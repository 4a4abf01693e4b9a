"""What comes after a generation's last step: its images are decoded beside the steps of others, fetched from the
device, and handed over. Likewise all other chores. On the engine's thread only."""

from collections import deque
from collections.abc import Hashable
from typing import Any

import torch

from sdworker.engine.board import Board
from sdworker.engine.chores import Chore
from sdworker.engine.device import Lap
from sdworker.engine.roster import Roster

__all__ = ["Finishing"]

# Of a step's time, how long those that live are kept waiting for what is done beside steps; once it is over, the
# piece at hand is the last.
_SHARE = 0.5
# So often a chore for which memory does not suffice is begun anew, with less and less.
_MOST_SHORTAGES = 3


class Finishing:
    """Does chores, and hands over what came of them.

    Attributes:
        delivered: results handed over so far.
    """

    def __init__(self, board: Board, roster: Roster, device: torch.device) -> None:
        self.delivered = 0
        self._board = board
        self._roster = roster
        self._device = device
        self._piece_s: dict[Hashable, float] = {}  # by kind of chore, what its last piece took
        self._laps: deque[tuple[Hashable, Lap]] = deque()

    def let_finished_leave(self) -> None:
        """What has no step left leaves the live ones; its images are to be decoded."""
        board = self._board
        for generation in [one for one in board.generations if one.finished]:
            try:
                latents = self._roster.with_memory(generation.leave)
            except Exception as error:
                board.fail([generation], error)
                continue
            board.generations.remove(generation)
            if generation.as_latents:
                generation.images.set_result(latents)
                continue
            board.leaving.append(generation)
            board.chores.add(generation.chores)

    def do_some_chores(self, step_s: float) -> bool:
        """Do pieces of what is to be done beside steps, for a part of a step's time; whether there were any.

        Whoever lives or waits to begin would have to wait for all of it. As long as nobody does, one piece, and
        then it is looked who came.

        Args:
            step_s: what a step takes just now.
        """
        left_s = _SHARE * step_s
        did = False
        while (chore := self._board.chores.next()) is not None:
            left_s -= self._do_piece(chore, step_s)
            did = True
            if left_s <= 0 or not self._board.generations:
                break
        return did

    def _do_piece(self, chore: Chore[Any], step_s: float) -> float:
        """The next piece of a chore; seconds that it takes the device, as far as one knows by now."""
        lap = Lap(self._device)
        try:
            for done in chore.do_piece(self._board.chores.mates_of(chore)):
                self._board.chores.remove(done)
                self._board.arriving.append(done)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._roster.free_memory()
            if chore.begin_anew() > _MOST_SHORTAGES:
                self._board.fail_chore(chore, error)
        except Exception as error:
            self._board.fail_chore(chore, error)
        lap.end()
        self._laps.append((chore.kind, lap))
        while self._laps and (seconds := self._laps[0][1].seconds()) is not None:
            self._piece_s[self._laps.popleft()[0]] = seconds
        return self._piece_s.get(chore.kind, step_s)

    def deliver(self, *, wait: bool) -> None:
        """Hand over what has arrived.

        Args:
            wait: for all that is on its way, because there is nothing else to do.
        """
        board = self._board
        for chore in board.arriving.copy():
            assert chore.coming is not None, "it is done"
            if chore not in board.arriving or (not wait and not chore.coming.is_here()):
                continue
            try:
                result = chore.coming.get()
            except Exception as error:
                board.fail_chore(chore, error)
                continue
            board.arriving.remove(chore)
            chore.result.set_result(result)
            self.delivered += 1
        for generation in board.leaving.copy():
            if all(chore.result.done() for chore in generation.chores):
                board.leaving.remove(generation)
                generation.images.set_result([chore.result.result() for chore in generation.chores])
