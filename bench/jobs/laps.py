"""Where a job's time goes, stage by stage, without a gap between them."""

import time

__all__ = ["Laps"]


class Laps:
    """Wall time of each stage, in seconds.

    A stage lasts from the end of the one before to its own end, so the stages add up to the whole, and waiting for
    a thread or a queue counts for the stage that waits. A stage that comes again is added up. Threads may take
    turns.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new job begins."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage is over."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
