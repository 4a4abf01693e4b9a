"""How long steps take on this hardware, measured before the first job: what `StepCosts` knows it from."""

import time
from dataclasses import dataclass, field

import torch

from sdworker.engine.costs import worthwhile
from sdworker.engine.device import time_call
from sdworker.engine.networks import Networks

__all__ = ["Calibration", "calibrate"]

# Enough of both: the best of a few forwards is stable, and a slow one needs no repeating.
_REPEATS = 3
_SECONDS_A_SIZE = 0.25
# A large model on a CPU would take minutes for all sizes; what it takes for the first ones says enough.
_SECONDS_IN_ALL = 2.0


@dataclass
class Calibration:
    """Seconds of a forward by rows, and whether a size did not fit into memory."""

    seconds: dict[int, float] = field(default_factory=dict)
    out_of_memory: bool = False


def calibrate(networks: Networks, *, largest: int, only_worthwhile: bool) -> Calibration:
    """Time forwards of 2, 4, 8 … rows at the model's own size; on the engine's thread.

    Args:
        largest: most rows to try.
        only_worthwhile: stop where twice the rows are not worth it.
    """
    result = Calibration()
    spent = 0.0
    for rows in _sizes(largest):
        try:
            networks.prepare(rows)
            began = time.perf_counter()
            result.seconds[rows] = _time_forward(networks, rows)
            if only_worthwhile and worthwhile(result.seconds) < rows:
                # Where others use the machine too, one look can be a bad one, and this one decides.
                result.seconds[rows] = min(result.seconds[rows], _time_forward(networks, rows))
        except (torch.OutOfMemoryError, MemoryError):
            if not result.seconds:
                raise
            result.out_of_memory = True
            break
        if only_worthwhile and worthwhile(result.seconds) < rows:
            break
        spent += time.perf_counter() - began
        if spent > _SECONDS_IN_ALL:
            break
    return result


def _sizes(largest: int) -> list[int]:
    """2, 4, 8 … up to `largest`, which is the last whether a power of two or not."""
    sizes = [2]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes


def _time_forward(networks: Networks, rows: int) -> float:
    """Seconds of a forward, the best of a few."""
    inputs = networks.example_inputs(rows)
    return min(
        time_call(
            networks.device, lambda: networks.predict(*inputs), _REPEATS, enough_seconds=_SECONDS_A_SIZE
        )
    )
