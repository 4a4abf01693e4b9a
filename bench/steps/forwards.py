"""UNet forwards as they were run, and how a step divides into the forward and everything else."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

__all__ = ["Forward", "Instant", "StepTimes", "instant", "step_times"]

Instant = float | torch.cuda.Event
"""A moment: wall time in seconds or, on CUDA, an event in the stream, which costs no waiting.

Between two events lies what the device did, and its idling where the process was not quick enough to give it work.
So the share of a step beside its forward is right whichever of the two is the limit.
"""


@dataclass(frozen=True)
class Forward:
    """One UNet forward over so many rows."""

    rows: int
    began: Instant
    ended: Instant


@dataclass(frozen=True)
class StepTimes:
    """Medians over steps, in seconds: in the UNet's forward, and from its end to the beginning of the next."""

    unet_s: float
    between_s: float

    @property
    def step_s(self) -> float:
        return self.unet_s + self.between_s


def instant(device: torch.device) -> Instant:
    """Now."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def step_times(forwards: Sequence[Forward], rows: int) -> StepTimes:
    """How the steps of exactly `rows` rows divide; on CUDA the device must have finished them.

    Raises:
        ValueError: no two of them follow one another.
    """
    pairs = [(one, other) for one, other in pairwise(forwards) if one.rows == other.rows == rows]
    if not pairs:
        raise ValueError(
            f"no two steps of {rows} rows follow one another, only of {[f.rows for f in forwards]}"
        )
    return StepTimes(
        statistics.median(_seconds(one.began, one.ended) for one, _ in pairs),
        statistics.median(_seconds(one.ended, other.began) for one, other in pairs),
    )


def _seconds(began: Instant, ended: Instant) -> float:
    if isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return began.elapsed_time(ended) / 1000
    assert isinstance(began, float)
    assert isinstance(ended, float)
    return ended - began
