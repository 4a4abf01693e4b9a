"""Which LoRAs the rows of a UNet batch use, and how strongly."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch

from sdworker.engine.device import send

__all__ = ["Layout", "RowAdapters", "Use"]


class Use(NamedTuple):
    """One LoRA of a row: its padded rank, its slot among those of the rank, and how strongly."""

    rank: int
    number: int
    strength: float


class Layout(Protocol):
    """The slots that uses refer to.

    Attributes:
        device: where they are.
        version: another one once their tensors are others; a captured forward holds on to those it has seen.
    """

    @property
    def device(self) -> torch.device: ...
    @property
    def version(self) -> int: ...


@dataclass(frozen=True)
class RowAdapters:
    """What `AdapterSlots.using` is told of some rows; a `PerRow`.

    Cut and joined as plain numbers, so that a batch that stays the same is known to be; what the forward needs on
    the device is made of them when it is asked for. Slot 0 of every rank adds nothing.

    Attributes:
        uses: of each row.
        slots: those they refer to; None where no row has any.
    """

    uses: tuple[tuple[Use, ...], ...]
    slots: Layout | None = field(default=None, compare=False)

    @classmethod
    def none(cls, rows: int) -> "RowAdapters":
        """Rows without any."""
        return cls(((),) * rows)

    @classmethod
    def of(cls, uses: Sequence[Use], rows: int, slots: Layout) -> "RowAdapters":
        """The same for every row."""
        return cls((tuple(uses),) * rows, slots)

    @property
    def rows(self) -> int:
        return len(self.uses)

    def __bool__(self) -> bool:
        return any(self.uses)

    def __getitem__(self, rows: slice) -> "RowAdapters":
        return RowAdapters(self.uses[rows], self.slots)

    @staticmethod
    def cat(parts: "Sequence[RowAdapters]") -> "RowAdapters":
        """The rows of all, one after another."""
        slots = next((part.slots for part in parts if part.slots is not None), None)
        return RowAdapters(tuple(row for part in parts for row in part.uses), slots)

    def pad(self, rows: int) -> "RowAdapters":
        """As many rows, the new ones without any."""
        return RowAdapters(self.uses + ((),) * (rows - self.rows), self.slots)

    @cached_property
    def by_rank(self) -> Mapping[int, tuple[torch.Tensor, torch.Tensor]]:
        """Rank → slot numbers [rows, most of the rank in a row] in int64, and strengths, likewise, in float32."""
        if self.slots is None:
            return {}
        found = {}
        for rank, most in self._most:
            rows = [[use for use in row if use.rank == rank] for row in self.uses]
            numbers = [[use.number for use in row] + [0] * (most - len(row)) for row in rows]
            strengths = [[use.strength for use in row] + [0.0] * (most - len(row)) for row in rows]
            found[rank] = (
                send(torch.tensor(numbers), self.slots.device),
                send(torch.tensor(strengths, dtype=torch.float32), self.slots.device),
            )
        return found

    @property
    def key(self) -> Hashable:
        """What decides a forward: each rank, the most of it in a row, and which tensors hold the slots."""
        return (None if self.slots is None else self.slots.version), self._most

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in an order that `key` fixes."""
        return [tensor for pair in self.by_rank.values() for tensor in pair]

    @cached_property
    def _most(self) -> tuple[tuple[int, int], ...]:
        ranks = sorted({use.rank for row in self.uses for use in row})
        return tuple((rank, max(sum(use.rank == rank for use in row) for row in self.uses)) for rank in ranks)
