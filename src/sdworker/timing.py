"""Where a job's time went, for its one line in the log."""

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Laps of wall time. `str()` gives `read 3 ms, draw 812 ms, …`."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End the lap that began at the previous call."""
        now = time.perf_counter()
        self._laps_ms[name] = (now - self._last) * 1000
        self._last = now

    @property
    def seconds(self) -> float:
        """Of all laps."""
        return sum(self._laps_ms.values()) / 1000

    def __str__(self) -> str:
        return ", ".join(f"{name} {spent:.0f} ms" for name, spent in self._laps_ms.items())
