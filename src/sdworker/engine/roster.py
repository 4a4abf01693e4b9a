"""The models that an engine draws with at a time, and what it has learned of each.

Changed on the engine's thread; read by any.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from sdworker.engine.costs import Shape, StepCosts
from sdworker.engine.costs.learner import CostLearner
from sdworker.engine.networks.model import Model
from sdworker.engine.tables import SamplerTables

__all__ = ["Group", "Roster", "Seat"]

T = TypeVar("T")

Group = tuple[Model, Shape]
"""Generations of one group can share a step: of one model, and of one latent height and width."""


@dataclass(frozen=True)
class Seat:
    """What belongs to one model.

    Attributes:
        tables: its samplers'.
        learner: of what its steps cost; models of one architecture share it.
    """

    model: Model
    tables: SamplerTables
    learner: CostLearner


class Roster:
    """The models there are, in the order in which they came; `Costs` of all their groups."""

    def __init__(self, *, max_rows: int | None) -> None:
        """
        Args:
            max_rows: most rows in a forward. None: as many as are found to be worth it.
        """
        self._max_rows = max_rows
        self._seats: dict[Model, Seat] = {}
        self._learners: dict[str, CostLearner] = {}

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def __len__(self) -> int:
        return len(self._seats)

    def of(self, model: Model) -> Seat:
        """A model's seat."""
        return self._seats[model]

    def add(self, model: Model) -> Seat:
        """From now on it is drawn with."""
        learner = self._learners.get(model.architecture)
        if learner is None:
            learner = CostLearner(model, max_rows=self._max_rows)
            self._learners[model.architecture] = learner
        learner.join(model)
        self._seats[model] = Seat(model, SamplerTables(model.scheduler_config, model.device), learner)
        return self._seats[model]

    def remove(self, model: Model) -> None:
        """It is drawn with no more. What was learned of its steps stays known for the next of its architecture."""
        seat = self._seats.pop(model)
        seat.learner.leave(model)
        for other in self._seats.values():
            if other.learner is seat.learner:
                other.learner.join(other.model)

    @property
    def learners(self) -> list[CostLearner]:
        """Each once."""
        return list(self._learners.values())

    def costs_of(self, model: Model) -> StepCosts:
        """What a model's steps cost."""
        return self._seats[model].learner.costs

    def seconds(self, rows: int, group: Group) -> float:
        """Of as many forwards as so many rows of a group take."""
        model, shape = group
        return self.costs_of(model).seconds(rows, shape)

    def limit(self, group: Group) -> int:
        """Most rows of a group in one forward."""
        model, shape = group
        return self.costs_of(model).limit(shape)

    def free_memory(self) -> None:
        """Give back what models keep only for speed."""
        for seat in self:
            seat.model.free_memory()

    def with_memory(self, function: Callable[[], T]) -> T:
        """Call the function; if memory does not suffice, once more with what can be freed."""
        with contextlib.suppress(torch.OutOfMemoryError, MemoryError):
            return function()
        self.free_memory()
        return function()
