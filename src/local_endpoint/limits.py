"""Who may ask, and how often: bearer keys, and the platform's limits for each of them."""

import hmac
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from local_endpoint.errors import ApiError

__all__ = ["LIMITS", "Gate", "Limit", "bearer_key"]

_WINDOW_S = 10


@dataclass(frozen=True, slots=True)
class Limit:
    """Requests in ten seconds, and at the same time, with one key."""

    per_window: int
    concurrent: int


_JOB = Limit(2000, 400)
LIMITS = {
    "run": Limit(1000, 200),
    "runsync": _JOB,
    "status": _JOB,
    "stream": _JOB,
    "cancel": Limit(100, 20),
    "retry": Limit(100, 20),
    "purge-queue": Limit(2, 2),
    "requests": Limit(10, 2),
    "health": _JOB,
}
"""The platform's own, but for `retry` and `health`, whose limits it does not tell."""


class Gate:
    """Lets requests in, or raises `ApiError` 401 or 429."""

    def __init__(
        self, keys: Iterable[str], *, limits: bool = True, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [key.encode() for key in keys]
        self._limits = limits
        self._clock_s = clock_s
        self._times: defaultdict[tuple[bytes, str], deque[float]] = defaultdict(deque)
        self._open: defaultdict[tuple[bytes, str], int] = defaultdict(int)

    @contextmanager
    def enter(self, authorization: str | None, operation: str) -> Iterator[None]:
        """Let one request in, for as long as it takes."""
        key = self._known(authorization)
        if not self._limits:
            yield
            return
        place = (key, operation)
        limit = LIMITS[operation]
        if self._open[place] >= limit.concurrent:
            raise ApiError(
                429,
                f"more than {limit.concurrent} /{operation} requests at once with this key",
                {"Retry-After": "1"},
            )
        self._count(place, limit)
        self._open[place] += 1
        try:
            yield
        finally:
            self._open[place] -= 1

    def _known(self, authorization: str | None) -> bytes:
        given = bearer_key(authorization)
        # Every key is compared, each in constant time: how long it takes tells nothing.
        known = [key for key in self._keys if hmac.compare_digest(key, given)]
        if not given or not known:
            raise ApiError(
                401,
                "missing or unknown API key: send it as 'Authorization: Bearer KEY'",
                {"WWW-Authenticate": "Bearer"},
            )
        return known[0]

    def _count(self, place: tuple[bytes, str], limit: Limit) -> None:
        times, now_s = self._times[place], self._clock_s()
        while times and times[0] <= now_s - _WINDOW_S:
            times.popleft()
        if len(times) >= limit.per_window:
            wait_s = max(1, math.ceil(times[0] + _WINDOW_S - now_s))
            raise ApiError(
                429,
                f"more than {limit.per_window} /{place[1]} requests in {_WINDOW_S} s with this key; "
                f"wait {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        times.append(now_s)


def bearer_key(authorization: str | None) -> bytes:
    """The key in an Authorization header, with `Bearer` before it or without, as on the platform."""
    given = (authorization or "").strip()
    scheme, _, key = given.partition(" ")
    return (key.strip() if scheme.lower() == "bearer" else given).encode()
