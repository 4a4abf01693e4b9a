"""`--simulate`: the platform's bad days on this machine, so that callers can try what they do about them.

Chances are drawn from a generator of its own for each kind and from `seed`, in the order in which requests come or
jobs are taken: the same calls meet the same fate.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Fate", "Simulation"]

_REFUSALS = (408, 429, 500, 502, 503, 504)
_LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What is simulated; by default, nothing."""

    cold_start_s: float = 0
    """A worker that is asleep, as all are at first, needs so long before it takes its first job."""
    idle_s: float = math.inf
    """A worker that had no job for so long falls asleep."""
    throttled: int = 0
    """So many workers more are in /health, which get no GPU and never work."""
    refusals: tuple[tuple[float, int], ...] = ()
    """Which share of callers' requests is answered with which error status."""
    lose_worker: float = 0
    """The share of takes that go to a worker which is never heard of again."""
    lose_after_s: float = 2
    """After so long that is noticed, and the job goes back to the queue."""
    webhook_delay_s: float = 0
    """Webhooks are sent so much later."""
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Simulation":
        """Read `cold-start=8,throttled=2,rate=0.05:429,…`. Raises `ValueError` that says what is allowed."""
        values: dict[str, float | int] = {}
        refusals: list[tuple[float, int]] = []
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or name not in (*_READERS, "rate"):
                allowed = ", ".join(f"{known}={form}" for known, form in _FORMS.items())
                raise ValueError(f"{part.strip()!r} is not known; allowed: {allowed}")
            try:
                if name == "rate":
                    refusals.append(_refusal(value))
                else:
                    field, read = _READERS[name]
                    values[field] = read(value)
            except ValueError:
                raise ValueError(f"{name} should be {_FORMS[name]}; it is {value!r}") from None
        if sum(share for share, _ in refusals) > 1:
            raise ValueError("the shares of all rates together are more than 1")
        return cls(refusals=tuple(refusals), **values)  # type: ignore[arg-type]


class Fate:
    """Draws what happens, by one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._requests = random.Random(f"requests {simulation.seed}")
        self._takes = random.Random(f"takes {simulation.seed}")

    def refusal(self) -> int | None:
        """The status that the next request is refused with, if it is."""
        if not self._simulation.refusals:
            return None
        drawn = self._requests.random()
        for share, status in self._simulation.refusals:
            if drawn < share:
                return status
            drawn -= share
        return None

    def loses_worker(self) -> bool:
        """Whether the worker that takes the next job is lost with it."""
        return self._simulation.lose_worker > 0 and self._takes.random() < self._simulation.lose_worker


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _LONGEST_S:
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError
    return int(text)


def _refusal(text: str) -> tuple[float, int]:
    share, _, status = text.partition(":")
    code = _count(status or "429")
    if code not in _REFUSALS:
        raise ValueError
    return _share(share), code


_READERS: dict[str, tuple[str, Callable[[str], float | int]]] = {
    "cold-start": ("cold_start_s", _seconds),
    "idle": ("idle_s", _seconds),
    "throttled": ("throttled", _count),
    "lose-worker": ("lose_worker", _share),
    "lose-after": ("lose_after_s", _seconds),
    "webhook-delay": ("webhook_delay_s", _seconds),
    "seed": ("seed", _count),
}
_FORMS = {
    "cold-start": "SECONDS",
    "idle": "SECONDS",
    "throttled": "WORKERS",
    "rate": f"SHARE:STATUS (a share from 0 to 1; {', '.join(map(str, _REFUSALS))})",
    "lose-worker": "SHARE",
    "lose-after": "SECONDS",
    "webhook-delay": "SECONDS",
    "seed": "NUMBER",
}
