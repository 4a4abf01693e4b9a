"""What ControlNets add to a drawing's steps, as far as the choice of who shares them must know it."""

from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Led"]


@dataclass(frozen=True)
class Led:
    """Rows of a drawing that a ControlNet leads.

    Attributes:
        net: which; rows of all drawings that it leads are in one forward of it.
        share: what such a forward costs, of the UNet's over as many rows.
        rows: how many it leads.
        now: whether it does at the coming evaluation.
        evaluations: at how many it does.
        evaluations_left: at how many of those to go.
    """

    net: Hashable
    share: float
    rows: int
    now: bool
    evaluations: float
    evaluations_left: float
