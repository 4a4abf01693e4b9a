"""The life of the engine's thread: take in what was submitted, turn by turn draw it, and end so that nobody is
left waiting.

What goes wrong with one drawing fails that drawing. A defect of the loop fails those on board, and it goes on. A
device that is lost, or a defect that comes again and again, ends the thread: then everything fails that was
submitted or will be.
"""

import logging
import queue
from functools import partial
from typing import Any

import torch

from sdworker.engine.batch import choose
from sdworker.engine.beginning import Beginning
from sdworker.engine.board import Board
from sdworker.engine.chores import Chore
from sdworker.engine.device import Pace, mark
from sdworker.engine.errand import Errand
from sdworker.engine.errors import DeviceLost, EngineError, EngineLost, is_fatal
from sdworker.engine.finishing import Finishing
from sdworker.engine.generation import Generation
from sdworker.engine.inbox import SHUTTING_DOWN, Inbox
from sdworker.engine.processor import use_cores
from sdworker.engine.roster import Roster
from sdworker.engine.stepping import Stepping

__all__ = ["Loop"]

log = logging.getLogger(__name__)

# A worker that starts because a job is waiting gets it within this time; then nothing is in its way.
_IDLE_S = 0.25
# So many defects of the loop without a drawing that was finished between them: it would go on failing for ever.
_MOST_DEFECTS = 3


class Loop:
    """What the engine's thread does, from its first moment to its last."""

    def __init__(
        self,
        inbox: Inbox,
        roster: Roster,
        board: Board,
        *,
        beginning: Beginning,
        stepping: Stepping,
        finishing: Finishing,
        device: torch.device,
        threads: int | None,
    ) -> None:
        """
        Args:
            threads: with how many threads to compute on a CPU. None: torch's own number.
        """
        self._inbox = inbox
        self._roster = roster
        self._board = board
        self._beginning = beginning
        self._stepping = stepping
        self._finishing = finishing
        self._threads = threads
        self._pace = Pace(partial(mark, device))
        self._errand: Errand[Any] | None = None  # the one at hand

    def run(self) -> None:
        """Draw until closed, or until it cannot go on."""
        end: BaseException | None = None
        try:
            if self._threads is not None:
                use_cores(self._threads)
            with torch.inference_mode():
                self._take_turns()
        except BaseException as error:
            # Whatever it is, a panic of a library in Rust say: a worker that answers nothing would be worse.
            end = error
        self._end(end)

    def _take_turns(self) -> None:
        """Draw until closed.

        Raises:
            BaseException: it cannot go on.
        """
        defects = delivered = 0
        while True:
            try:
                if not self._admit() and not self._board.is_busy:
                    return
                if not self._inbox.finish:
                    return
                self._turn()
            except Exception as error:
                if is_fatal(error):
                    raise
                defects = 1 if self._finishing.delivered > delivered else defects + 1
                delivered = self._finishing.delivered
                if defects == _MOST_DEFECTS:
                    raise
                log.exception("a defect of the engine fails all that was on board")
                self._board.fail_all(error)

    def _turn(self) -> None:
        """One step, and what comes before and after it."""
        if any(learner.is_overdue() for learner in self._roster.learners):
            self._use_idle_time()
        board = self._board
        board.drop_cancelled()
        self._beginning.begin_some(self._stepping.step_s)
        chosen = choose(board.generations, self._roster, board.live)
        if chosen:
            self._stepping.step(chosen)
        self._finishing.let_finished_leave()
        if self._finishing.do_some_chores(self._stepping.step_s) or chosen:
            self._pace.step_queued()
        self._finishing.deliver(wait=not board.generations and not board.chores)

    def _admit(self) -> bool:
        """Take in what was submitted, waiting for it when there is nothing else to do. False: closed."""
        while True:
            idle = not self._board.is_busy
            timeout_s = _IDLE_S if idle and self._has_use_for_idle_time() else None
            try:
                item = self._inbox.get(wait=idle, timeout_s=timeout_s)
            except queue.Empty:
                if not idle:
                    return True
                self._use_idle_time()
                continue
            if item is None:
                return False
            if isinstance(item, Errand):
                self._run_errand(item)
            elif isinstance(item, Generation):
                self._board.generations.append(item)
            else:
                self._board.chores.add(item)

    def _run_errand(self, errand: Errand[Any]) -> None:
        self._errand = errand
        try:
            errand.run()
        except Exception as error:
            if is_fatal(error):
                raise
        self._errand = None

    def _has_use_for_idle_time(self) -> bool:
        return not self._inbox.closed and (
            any(learner.has_more for learner in self._roster.learners)
            or any(seat.model.wants_preparing for seat in self._roster)
        )

    def _use_idle_time(self) -> None:
        """Do what can wait and is done in some tenths of a second; jobs need none of it."""
        try:
            learner = next((one for one in self._roster.learners if one.has_more), None)
            if learner is not None:
                learner.learn_more()
                return
            for seat in self._roster:
                if seat.model.wants_preparing:
                    seat.model.prepare_wanted()
                    return
        except Exception as error:
            if is_fatal(error):
                raise
            if not self._inbox.closed:
                log.warning("what steps cost could not be measured", exc_info=error)

    def _end(self, error: BaseException | None) -> None:
        """The thread ends: fail whatever nobody will do any more, and say so unless it was asked to end."""
        reason = EngineError(SHUTTING_DOWN)
        if error is not None:
            log.critical("the engine cannot go on", exc_info=error)
            reason = (
                DeviceLost("the GPU failed and this worker restarts; send the job again")
                if is_fatal(error)
                else EngineLost("the worker failed and restarts; send the job again")
            )
            reason.__cause__ = error
        left: list[Generation | Errand[Any] | Chore[Any]] = []
        for item in self._inbox.end(reason):
            left += item if isinstance(item, list) else [item]
        left += self._board.clear()
        left += [] if self._errand is None else [self._errand]
        for one in left:
            one.fail(reason)
        self._inbox.tell_lost()
