"""How long steps take on this hardware, measured: what `StepCosts` knows it from."""

import threading
import time

import torch

from sdworker.engine.costs import worthwhile
from sdworker.engine.device import time_call
from sdworker.engine.errors import EngineError
from sdworker.engine.networks import Networks

__all__ = ["Calibration"]

# Enough of both: the best of a few forwards is stable, and a slow one needs no repeating.
_REPEATS = 6
_SECONDS_A_SIZE = 0.25
# A large model on a CPU would take minutes for all sizes; what it takes for the first ones says enough.
_SECONDS_IN_ALL = 2.0


class Calibration:
    """Times forwards of 2, 4, 8 … rows at the model's own size, one number of rows after the other.

    Attributes:
        seconds: of a forward, by rows, so far.
        out_of_memory: the next number of rows did not fit into memory.
        done: there is nothing more to measure.
    """

    def __init__(
        self, networks: Networks, *, largest: int, only_worthwhile: bool, stop: threading.Event
    ) -> None:
        """
        Args:
            largest: most rows to try.
            only_worthwhile: stop where twice the rows are not worth it.
            stop: set from another thread, nothing more is measured after the forward at hand.
        """
        self.seconds: dict[int, float] = {}
        self.out_of_memory = False
        self.done = False
        self._networks = networks
        self._only_worthwhile = only_worthwhile
        self._stop = stop
        self._left = _sizes(largest)
        self._spent_s = 0.0

    def measure_next(self) -> None:
        """Time the next number of rows; on the engine's thread.

        Raises:
            EngineError: it was told to stop.
            Exception: whatever the networks raise. Out of memory is no error unless nothing fits.
        """
        rows = self._left.pop(0)
        try:
            self._networks.prepare(rows)
            began = time.perf_counter()
            self.seconds[rows] = self._time_forward(rows)
            if self._is_not_worthwhile(rows):
                # Where others use the machine too, one look can be a bad one, and this one decides.
                self.seconds[rows] = min(self.seconds[rows], self._time_forward(rows))
        except (torch.OutOfMemoryError, MemoryError):
            if not self.seconds:
                raise
            self.out_of_memory = self.done = True
            return
        self._spent_s += time.perf_counter() - began
        self.done = not self._left or self._is_not_worthwhile(rows) or self._spent_s > _SECONDS_IN_ALL

    def _is_not_worthwhile(self, rows: int) -> bool:
        return self._only_worthwhile and worthwhile(self.seconds) < rows

    def _time_forward(self, rows: int) -> float:
        """Seconds of a forward, the best of a few."""
        inputs = self._networks.example_input(rows)

        def forward() -> None:
            if self._stop.is_set():
                raise EngineError("stopped while what steps cost was measured")
            self._networks.denoise(inputs)

        return min(time_call(self._networks.device, forward, _REPEATS, enough_seconds=_SECONDS_A_SIZE))


def _sizes(largest: int) -> list[int]:
    """2, 4, 8 … up to `largest`, which is the last whether a power of two or not."""
    sizes = [2]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes
