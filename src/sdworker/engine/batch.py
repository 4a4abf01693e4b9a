"""Which generations make the next step. Pure bookkeeping: no tensors, no clock, no threads."""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Candidate", "choose"]


class Candidate(Protocol):
    """What the choice looks at.

    Attributes:
        rows: rows it brings to a UNet batch.
        shape: generations of one shape can share a step.
        last_step: number of the engine's step it last took part in, or was admitted at.
    """

    @property
    def rows(self) -> int: ...
    @property
    def shape(self) -> Hashable: ...
    @property
    def last_step(self) -> int: ...


C = TypeVar("C", bound=Candidate)


def choose(waiting: Sequence[C], limit: Callable[[Hashable], int]) -> list[C]:
    """The generations of the next step: the one that waited longest, and all that fit beside it.

    Whoever is left out becomes the one that waited longest, so nothing starves, whatever its size or shape.

    Args:
        waiting: every unfinished generation, in order of arrival.
        limit: shape → most rows in one step. The first generation is taken even if it alone has more.
    """
    if not waiting:
        return []
    by_age = sorted(waiting, key=lambda candidate: candidate.last_step)
    first = by_age[0]
    chosen = [first]
    rows = first.rows
    for candidate in by_age[1:]:
        if candidate.shape == first.shape and rows + candidate.rows <= limit(first.shape):
            chosen.append(candidate)
            rows += candidate.rows
    return chosen
