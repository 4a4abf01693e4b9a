"""Pauses between attempts that fail: growing, bounded, and never the same for two workers."""

import random

__all__ = ["GrowingPause"]


class GrowingPause:
    """How long to wait before the next attempt; twice as long after each, until `reset`."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._times = 0

    @property
    def is_growing(self) -> bool:
        """Whether there was an attempt since the last `reset`."""
        return self._times > 0

    def reset(self) -> None:
        self._times = 0

    def next_s(self) -> float:
        """Seconds: half to three halves of a value that doubles, so that a fleet does not come back at once."""
        pause_s = min(self._most_s, self._first_s * 2 ** min(self._times, 30))
        self._times += 1
        return pause_s * random.uniform(0.5, 1.5)
