"""The decoder processes (`sdworker/decoder`), seen from the worker: started, asked, ended when they take too long.

Every picture goes to the decoders of small ones first. They read its header, and what turns out to be large they
leave to the one decoder of large ones. So large pictures, and those made to be slow, wait for their like only, and
few take memory at a time; the others are files that wait in line, for a bounded time.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdworker.decoder.errors import PictureError
from sdworker.decoder.messages import Connection
from sdworker.decoder.resize import Resize

__all__ = ["Decoders", "Fit", "Mode"]

log = logging.getLogger(__name__)

Mode = Literal["RGB", "L", "HINT"]
# From a picture's width and height, upright, to those that its pixels are to have.
Fit = Callable[[tuple[int, int]], tuple[int, int]]

_SMALL_PIXELS = 4_000_000
_SMALL_AT_ONCE, _LARGE_AT_ONCE = 2, 1
# Files in line, their bytes together, and how long one waits. What is beyond is refused.
_MOST_WAITING_BYTES = 256 * 10**6
_LONGEST_WAIT_S = 60.0
# The decoder's own limits, of processor time, end it sooner, unless the machine is very busy or it sleeps.
_SMALL_DEADLINE_S, _LARGE_DEADLINE_S = 20.0, 60.0
_START_S = 30.0

_PACKAGES = Path(__file__).resolve().parents[2]
_BUSY = "too many pictures wait to be decoded; send the job again a little later"


class _Large(Exception):
    """The picture is for the decoder of large ones."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A file to be decoded."""

    data: bytes
    mode: Mode
    max_pixels: int
    fit: Fit
    resize: Resize
    like: tuple[int, int] | None


class Decoders:
    """Decodes files, a few at a time. The processes start with the first picture and stay."""

    def __init__(self) -> None:
        self._small = _Line("small", _SMALL_AT_ONCE, _SMALL_PIXELS, _SMALL_DEADLINE_S)
        self._large = _Line("large", _LARGE_AT_ONCE, sys.maxsize, _LARGE_DEADLINE_S)

    async def decode(
        self,
        data: bytes,
        mode: Mode,
        max_pixels: int,
        fit: Fit,
        *,
        resize: Resize = "stretch",
        like: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        """The picture in a file, [height, width, 3], but [height, width] for "L".

        Args:
            fit: says what size the pixels shall have; called in another thread. What it raises comes out as it is.
            resize, like: how it gets that size (`decoder/resize.py`).

        Raises:
            PictureError: it cannot be decoded, not with what one picture may take, or not now.
        """
        task = _Task(data, mode, max_pixels, fit, resize, like)
        try:
            return await self._small.decode(task)
        except _Large:
            return await self._large.decode(task)


class _Line:
    """Files of one kind, in order of arrival, before so many decoders."""

    def __init__(self, name: str, at_once: int, pixels_here: int, deadline_s: float) -> None:
        self._pixels_here = pixels_here
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=f"decoder of {name} pictures")
        self._own = threading.local()  # each thread's decoder
        self._waiting_bytes = 0

    async def decode(self, task: _Task) -> NDArray[np.uint8]:
        """As `Decoders.decode`; raises _Large too."""
        size = len(task.data)
        if self._waiting_bytes and self._waiting_bytes + size > _MOST_WAITING_BYTES:
            raise PictureError(_BUSY)
        self._waiting_bytes += size
        try:
            latest = time.monotonic() + _LONGEST_WAIT_S
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._decode_here, task, latest
            )
        finally:
            self._waiting_bytes -= size

    def _decode_here(self, task: _Task, latest: float) -> NDArray[np.uint8]:
        """In one of the line's threads."""
        if time.monotonic() > latest:
            raise PictureError(_BUSY)
        decoder: _Decoder | None = getattr(self._own, "decoder", None)
        if decoder is None or not decoder.is_alive:
            decoder = self._own.decoder = _Decoder()
        return decoder.decode(task, self._pixels_here, self._deadline_s)


class _Decoder:
    """One process. Whoever made it, a thread that lives as long as the worker, is the only one to use it.

    (The kernel ends a process with the thread that started it, not with the thread's process.)
    """

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        try:
            with its:
                self._process = subprocess.Popen(
                    [sys.executable, "-sP", "-m", "sdworker.decoder", str(os.getpid())],
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # libraries complain there of callers' files
                    env=_environment(),
                    process_group=0,  # a signal to the worker's is not for it, not even before it ignores that
                )
        except OSError as error:
            ours.close()
            log.error("no decoder of pictures can be started: %s", error)
            raise PictureError("pictures cannot be decoded now; send the job again") from error
        self._connection = Connection(ours)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, task: _Task, pixels_here: int, deadline_s: float) -> NDArray[np.uint8]:
        """As `Decoders.decode`; raises _Large where the picture has more than `pixels_here`."""
        self._connection.set_deadline(deadline_s)
        with self._talk():
            asked = {"mode": task.mode, "max_pixels": task.max_pixels, "pixels_here": pixels_here}
            self._connection.send(asked, task.data)
            width, height = self._answer()["size"]
        try:
            width, height = task.fit((width, height))
        except BaseException:
            with self._talk():
                self._connection.send({})
            raise
        shape = (height, width) if task.mode == "L" else (height, width, 3)
        with self._talk():
            self._connection.send({"size": [width, height], "resize": task.resize, "like": task.like})
            self._answer()
            pixels = self._connection.receive_bytes(math.prod(shape))
        return np.frombuffer(pixels, np.uint8).reshape(shape)

    def _answer(self) -> dict[str, Any]:
        answer = self._connection.receive()
        if "error" in answer:
            raise PictureError(str(answer["error"]))
        if "too_large_here" in answer:
            raise _Large
        return answer

    @contextmanager
    def _talk(self) -> Iterator[None]:
        """When the talk breaks off, the process is ended; the error is the picture's."""
        try:
            yield
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
            raise self._end(error) from error

    def _end(self, error: Exception) -> PictureError:
        """End the process, which is of no more use; returns the error for the picture it was at."""
        late = isinstance(error, TimeoutError)
        if late:
            self._process.kill()
        self._connection.close()
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        log.warning("a decoder of pictures ended with %s: %s", code, type(error).__name__)
        if late or code == -getattr(signal, "SIGXCPU", 0):
            return PictureError("the picture takes more time to decode than one of its size should")
        return PictureError("the picture cannot be decoded: its decoder broke down over it")


def _environment() -> dict[str, str]:
    """What the process needs, and no secret."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ
    }
    path = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    # numpy's linear algebra, which is not used, would otherwise set memory aside for a thread a core.
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1"}
