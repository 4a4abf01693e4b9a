"""Standard output and error that cannot stop the worker.

`print` raises when whoever read the log has gone or its disk is full, and waits for ever when they have stopped
reading; the SDK prints in the middle of a job. Here a line that cannot be written is dropped, and how many were is
told as soon as lines are taken again. Lines are redacted on their way.
"""

import contextlib
import io
import os
import select
import sys
import threading
import time
from typing import Any, TextIO

from sdworker.process.redaction import redact

__all__ = ["LogStream", "install"]

# A pipe that `poll` calls writable takes this much without waiting.
_AT_ONCE_BYTES = select.PIPE_BUF
_LONGEST_LINE = 65536
# For a reader that is only slow. One that has stopped is not waited for again until it has read something.
_PATIENCE_S = 0.1


class LogStream(io.TextIOBase):
    """A text stream onto a file descriptor: whole lines, redacted; writing never raises and hardly ever waits."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, *, original: TextIO | None = None) -> None:
        self._descriptor = descriptor
        self._original = original
        self._line = ""
        self._dropped = 0
        self._stalled = False
        # Reentrant: a signal handler or a finalizer may print while a line is being written.
        self._lock = threading.RLock()

    @property
    def buffer(self) -> Any:
        return getattr(self._original, "buffer", None)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        with contextlib.suppress(OSError):
            return os.isatty(self._descriptor)
        return False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._line = (self._line + text).rpartition("\n")
            if newline:
                self._send(lines + newline)
            if len(self._line) > _LONGEST_LINE:
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            line, self._line = self._line, ""
            if line:
                self._send(line)

    def close(self) -> None:
        """Nobody closes the log."""

    def _send(self, text: str) -> None:
        if self._dropped:
            lines, self._dropped = self._dropped, 0
            if not self._put(f"[{lines} lines of the log could not be written]\n"):
                self._dropped = lines
        if not self._put(redact(text)):
            self._dropped += text.count("\n") or 1

    def _put(self, text: str) -> bool:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        deadline = time.monotonic() + (0 if self._stalled else _PATIENCE_S)
        try:
            while left:
                if not self._takes_some(deadline):
                    self._stalled = True
                    return False
                left = left[os.write(self._descriptor, left[:_AT_ONCE_BYTES]) :]
        except OSError:  # nobody reads it, or its disk is full
            return False
        self._stalled = False
        return True

    def _takes_some(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(max(0, int((deadline - time.monotonic()) * 1000))))


def install() -> None:
    """Have this process write its log that way. Descriptors 0 to 2 that are closed lead nowhere from now on.

    Otherwise the next socket would get the number, and what C libraries print would go to the platform.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, flags)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
    sys.stdout = LogStream(1, original=sys.__stdout__)
    sys.stderr = LogStream(2, original=sys.__stderr__)
