"""Python gives the device its work ahead of time, but not far.

On CUDA a call returns when its kernels are queued, and copies to and from pinned memory do too. So the device
need never wait for Python: while it computes one step, the next is queued behind it. Without bounds Python would
queue whole drawings, and then a job that comes, one that is cancelled and the progress of all of them would wait
for what nobody can take back. On a CPU every call returns when its work is done, and all of this is nothing.
"""

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

__all__ = ["Lap", "Mark", "Pace", "fetch", "free_bytes", "mark", "send", "time_call"]


class Mark(Protocol):
    """A place in the device's queue."""

    def query(self) -> bool:
        """Whether the device has got there."""

    def synchronize(self) -> None:
        """Wait until it has."""


class _Passed:
    """The mark of a device that is never behind."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


def mark(device: torch.device) -> Mark:
    """What was queued on the device so far."""
    if device.type != "cuda":
        return _Passed()
    # Blocking: whoever waits sleeps, instead of keeping a core busy that encodes pictures.
    event = torch.cuda.Event(blocking=True)
    event.record()
    return event


class Lap:
    """How long the device works at what is done from its making to `end`."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events[0].record()
        self._seconds = -time.perf_counter()

    def end(self) -> None:
        if self._events is not None:
            self._events[1].record()
        self._seconds += time.perf_counter()

    def seconds(self) -> float | None:
        """None: the device has not got there yet."""
        if self._events is None:
            return self._seconds
        begin, end = self._events
        return begin.elapsed_time(end) / 1000 if end.query() else None


class Pace:
    """Keeps Python at most so many steps ahead of the device."""

    def __init__(self, mark: Callable[[], Mark], *, ahead: int = 1) -> None:
        """
        Args:
            mark: marks the device's queue.
            ahead: steps that may be queued behind the one at work.
        """
        self._mark = mark
        self._ahead = ahead
        self._marks: deque[Mark] = deque()

    def step_queued(self) -> None:
        """A step was queued: wait until no more than `ahead` are unfinished."""
        self._marks.append(self._mark())
        while len(self._marks) > self._ahead:
            self._marks.popleft().synchronize()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU's tensor on the device, without waiting for what is queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: torch.Tensor) -> torch.Tensor:
    """A device's tensor on the CPU; it may be read once a `mark` made after this call has passed."""
    return tensor.to("cpu", non_blocking=True)


_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """What can still be allocated: on CUDA of the card's memory, else of the machine's or the container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file: no limit
        limit = int((_CGROUP / "memory.max").read_text("ascii"))
        free = min(free, max(0, limit - int((_CGROUP / "memory.current").read_text("ascii"))))
    return free


def time_call(
    device: torch.device, call: Callable[[], object], repeats: int, *, enough_seconds: float = math.inf
) -> list[float]:
    """Seconds of each of some calls, after one that pays for what only the first needs.

    Args:
        device: waited for after each call, since CUDA works behind Python's back.
        call: what is timed.
        repeats: how often, at most.
        enough_seconds: fewer once they took so long; at least one.
    """

    def seconds() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()
    times: list[float] = []
    while len(times) < repeats and sum(times) <= enough_seconds:
        times.append(seconds())
    return times
