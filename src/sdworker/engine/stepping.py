"""One step: a UNet forward over the rows of the generations chosen for it, and each one's sampler step.

What fails for all together is done for each alone, so that only the one at fault fails; what lacks memory is done
in smaller forwards, and they are remembered. On the engine's thread only.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

import torch

from sdworker.engine.batch import step_seconds
from sdworker.engine.board import Board
from sdworker.engine.costs.threads import ThreadChooser
from sdworker.engine.errors import is_fatal
from sdworker.engine.generation import Generation
from sdworker.engine.networks.model import Model
from sdworker.engine.processor import use_cores
from sdworker.engine.roster import Roster
from sdworker.engine.unet_input import UNetInput

__all__ = ["Stepping"]

log = logging.getLogger(__name__)


class Stepping:
    """Takes steps.

    Attributes:
        step_s: what the last one was taken to cost.
    """

    def __init__(self, board: Board, roster: Roster, chooser: ThreadChooser | None) -> None:
        """
        Args:
            chooser: of the threads to step with; None: as many as there are.
        """
        self.step_s = 0.0
        self._board = board
        self._roster = roster
        self._chooser = chooser

    def step(self, chosen: Sequence[Generation]) -> None:
        """One UNet forward over the rows of all chosen, and each one's sampler step.

        Args:
            chosen: live ones of one group; one at least.
        """
        self._age(chosen)
        _note(chosen)
        began = time.perf_counter()
        for generation, predicted in self._predict(chosen):
            try:
                self._roster.with_memory(partial(generation.take, predicted))
            except Exception as error:
                self._board.fail([generation], error)
            else:
                generation.report()
        self._choose_threads(chosen[0].model, time.perf_counter() - began)

    def _age(self, chosen: Sequence[Generation]) -> None:
        """Count what the coming step takes, and for whom it is time passed over."""
        self.step_s = step_seconds(chosen, self._roster)
        for one in self._board.generations:
            one.standing.age += self.step_s
            if one not in chosen:
                one.standing.passed_over += self.step_s

    def _predict(self, chosen: Sequence[Generation]) -> list[tuple[Generation, torch.Tensor]]:
        """What the UNet says to each of them. Where it fails for all together, each alone, so that only the one
        at fault fails."""
        try:
            inputs = self._roster.with_memory(lambda: UNetInput.cat([one.next_input() for one in chosen]))
            predicted = self._forward(inputs, chosen[0].model)
            return list(zip(chosen, predicted.split([one.rows for one in chosen]), strict=True))
        except Exception as error:
            if len(chosen) == 1 or is_fatal(error):
                self._board.fail(chosen, error)
                return []
            log.warning("a step of %d drawings failed; stepping each alone", len(chosen), exc_info=error)
        return [answer for one in chosen for answer in self._predict([one])]

    def _forward(self, inputs: UNetInput, model: Model) -> torch.Tensor:
        """The UNet over all rows, in as few forwards as fit into memory."""
        costs = self._roster.costs_of(model)
        outputs: list[torch.Tensor] = []
        done = 0
        while done < inputs.rows:
            part = inputs[done : done + costs.limit(inputs.shape)]
            try:
                outputs.append(self._roster.with_memory(partial(model.denoise, part)))
            except (torch.OutOfMemoryError, MemoryError):
                if part.rows == 1:
                    raise
                fitting = part.rows // 2
                costs.remember_lack_of_memory(inputs.shape, fitting)
                log.warning(
                    "%d rows of %s do not fit into memory; from now on %d", part.rows, inputs.shape, fitting
                )
                continue
            done += part.rows
        return torch.cat(outputs)

    def _choose_threads(self, model: Model, seconds: float) -> None:
        """The step at hand took so long: on a CPU, with how many threads shall the next one be taken?"""
        if self._chooser is None or not self._roster.of(model).learner.knows:
            return
        before = self._chooser.threads
        threads = self._chooser.step_took(seconds / self.step_s, time.monotonic())
        if threads != before:
            use_cores(threads)


def _note(chosen: Sequence[Generation]) -> None:
    if log.isEnabledFor(logging.DEBUG):
        rows, loras = sum(one.rows for one in chosen), {key for one in chosen for key in one.adapters}
        log.debug("a step of %d drawings, %d rows, %d LoRAs", len(chosen), rows, len(loras))
