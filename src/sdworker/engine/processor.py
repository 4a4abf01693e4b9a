"""What makes a CPU draw fast. Nothing here changes a picture.

Two things cost a CPU half of its speed if nobody minds them:

- Threads. The engine draws on a thread of its own. OpenMP keeps a team of threads for every thread that ever
  computed in parallel, and once there are more of them than cores, those of a team go to sleep between one
  operation and the next instead of waiting a moment: a step of the embedded model took 53 ms instead of 20.
- Memory. The C library gives large blocks back to the system as soon as they are freed, and the system clears
  every page anew at the next allocation, some hundred times a step.
"""

import ctypes
import logging
from functools import cache

import torch

__all__ = ["keep_freed_memory", "reserve_cores", "use_cores"]

log = logging.getLogger(__name__)

# glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 2**20


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


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next step; where it is not glibc, do nothing.

    The process stays as large as it ever was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD)):
        if mallopt(option, value) != 1:
            log.warning("mallopt(%d, %d) was refused: drawing on a CPU may be slower", option, value)
