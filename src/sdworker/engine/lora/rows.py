"""Which LoRAs the rows of a UNet batch use, and how strongly: tensors, so that one forward serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["RowAdapters"]


@dataclass(frozen=True, eq=False)
class RowAdapters:
    """What `AdapterSlots.using` is told of some rows.

    Slots of one rank lie in one tensor, so they are named by rank and number. Slot 0 of every rank adds nothing.

    Attributes:
        by_rank: rank → slot numbers [rows, most at once] in int64, and strengths, likewise, in float32.
        rows: how many rows it speaks of.
    """

    by_rank: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    rows: int

    @classmethod
    def none(cls, rows: int) -> "RowAdapters":
        """Rows without any."""
        return cls({}, rows)

    @classmethod
    def of(cls, slots: Sequence[tuple[int, int, float]], rows: int, device: torch.device) -> "RowAdapters":
        """The same for every row.

        Args:
            slots: rank, number and strength of each.
        """
        by_rank: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for rank in sorted({rank for rank, _, _ in slots}):
            numbers = torch.tensor([number for r, number, _ in slots if r == rank], device=device)
            strengths = torch.tensor([strength for r, _, strength in slots if r == rank], device=device)
            by_rank[rank] = (numbers.expand(rows, -1), strengths.expand(rows, -1))
        return cls(by_rank, rows)

    def __bool__(self) -> bool:
        return bool(self.by_rank)

    def __getitem__(self, part: slice) -> "RowAdapters":
        start, stop, _ = part.indices(self.rows)
        chosen = {rank: (slots[part], strengths[part]) for rank, (slots, strengths) in self.by_rank.items()}
        return RowAdapters(chosen, max(0, stop - start))

    @staticmethod
    def cat(parts: "Sequence[RowAdapters]") -> "RowAdapters":
        """The rows of all, one after another."""
        ranks = sorted({rank for part in parts for rank in part.by_rank})
        by_rank: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for rank in ranks:
            most = max(part.by_rank[rank][0].shape[1] for part in parts if rank in part.by_rank)
            padded = [part._of_rank(rank, most, like=parts) for part in parts]
            by_rank[rank] = (torch.cat([slots for slots, _ in padded]), torch.cat([s for _, s in padded]))
        return RowAdapters(by_rank, sum(part.rows for part in parts))

    def pad(self, rows: int) -> "RowAdapters":
        """As many rows, the new ones without any."""
        return self.cat([self, self.none(rows - self.rows)]) if rows > self.rows else self

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """What decides the shapes of a forward: each rank, and the most of it in a row."""
        return tuple((rank, slots.shape[1]) for rank, (slots, _) in self.by_rank.items())

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in an order that `key` fixes."""
        return [tensor for pair in self.by_rank.values() for tensor in pair]

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> "RowAdapters":
        """The same ranks with other tensors, in the order of `tensors`."""
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return RowAdapters(dict(zip(self.by_rank, pairs, strict=True)), self.rows)

    def _of_rank(
        self, rank: int, most: int, like: "Sequence[RowAdapters]"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's slots and strengths, [rows, most], filled up with slot 0."""
        if rank in self.by_rank:
            slots, strengths = self.by_rank[rank]
            missing = most - slots.shape[1]
            pad = torch.nn.functional.pad
            return pad(slots, (0, missing)), pad(strengths, (0, missing))
        device = next(part.by_rank[rank][0].device for part in like if rank in part.by_rank)
        return (
            torch.zeros(self.rows, most, dtype=torch.int64, device=device),
            torch.zeros(self.rows, most, device=device),
        )
