"""What makes a CPU draw fast. Nothing here changes a picture.

Two things cost a CPU half of its speed if nobody minds them:

- Threads. The engine draws on a thread of its own. OpenMP keeps a team of threads for every thread that ever
  computed in parallel, and once there are more of them than cores, those of a team go to sleep between one
  operation and the next instead of waiting a moment: a step of the embedded model took 53 ms instead of 20.
- Memory. The C library gives large blocks back to the system as soon as they are freed, and the system clears
  every page anew at the next allocation, some hundred times a step. So they are kept; and because jobs of ever
  other sizes leave ever other holes, what has gathered is given back now and then (`give_back_memory`).
"""

import contextlib
import ctypes
import logging
import mmap
import os
import threading
from functools import cache

import torch

__all__ = ["give_back_memory", "keep_freed_memory", "reserve_cores", "stand_back", "use_cores"]

log = logging.getLogger(__name__)

# glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 2**20
# By how much a process may grow until what it has freed is given back.
_GATHERED = 256 * 2**20
# A tenth of what a thread gets that wants the core too.
_STANDING_BACK = 10
# What the process had when nothing was left to give back; None: freed memory is not kept.
_kept_bytes: int | None = None


@cache
def reserve_cores() -> int:
    """Let the calling thread, the process's main one, compute alone from now on; before anything is computed.

    Returns:
        How many threads the engine shall ask for, with `use_cores`: as many as torch would have used (the cores,
        or OMP_NUM_THREADS), however often this is called.
    """
    threads = torch.get_num_threads()
    use_cores(1)
    return threads


def use_cores(threads: int) -> None:
    """Let the calling thread compute with so many threads, whatever the others do.

    torch's number is each thread's own, but a thread takes over the last one that any thread has set when it
    computes, or asks, for the first time. So it asks first.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


def stand_back() -> None:
    """Let the calling thread compute alone, and only with what the engine's thread leaves of the cores.

    With one core, since a second team of threads would slow the engine's, and at a low priority, since a team
    waits for the last of its threads: whoever takes half of one's core doubles the time of all. Not at the lowest:
    beside busy programs it would hardly get on, and others might wait for Python's lock, which it holds for some
    microseconds at a time.
    """
    use_cores(1)
    with contextlib.suppress(
        OSError, AttributeError
    ):  # not on Linux, where each thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _STANDING_BACK)


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next step; where it is not glibc, do nothing.

    The process stays as large as it ever was, but for `give_back_memory`.
    """
    global _kept_bytes
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD)):
        if mallopt(option, value) != 1:
            log.warning("mallopt(%d, %d) was refused: drawing on a CPU may be slower", option, value)
    _kept_bytes = _resident_bytes()


def give_back_memory(more_than: int = _GATHERED) -> bool:
    """Give freed memory back to the system if the process has grown by more than so many bytes since last time.

    For between two jobs, on the thread that draws: it takes some tens of milliseconds, and the next steps' memory
    is cleared anew, once. Where nothing is kept (`keep_freed_memory`) there is nothing to do.

    Returns:
        whether it was done.
    """
    global _kept_bytes
    if _kept_bytes is None or _resident_bytes() - _kept_bytes <= more_than:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    _kept_bytes = _resident_bytes()
    return True


def _resident_bytes() -> int:
    """Memory that the system has given this process; 0 where it does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - after every job: quick
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError):
        return 0
