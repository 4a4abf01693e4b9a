"""The endpoint's time: milliseconds since the epoch that never jump and never run backwards."""

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Wall-clock time as it was at start, plus the monotonic time since.

    Someone setting the machine's clock while the endpoint runs changes nothing. Over a restart the wall
    clock is all there is; `not_before_ms`, the newest time in the store, keeps it from going backwards.
    """

    def __init__(
        self,
        *,
        not_before_ms: int = 0,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._start_s = monotonic_s()
        self._start_ms = max(int(wall_s() * 1000), not_before_ms)

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._start_ms + int((self._monotonic_s() - self._start_s) * 1000)
