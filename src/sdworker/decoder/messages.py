"""How the worker and its decoder talk: a line of JSON, and where it says `bytes`, that many of them after it.

    worker → decoder   {"bytes": n, "mode": "RGB", "L" or "HINT", "max_pixels": …, "pixels_here": …}   the file
    decoder → worker   {"size": [w, h]}  or  {"error": "…"}  or  {"too_large_here": true}
    worker → decoder   {"size": [w, h], "resize": …, "like": [w, h] or null}  or  {}: no need
    decoder → worker   {"bytes": n}                                                           the pixels

Each side may end at any time; the other then reads `EOFError`.
"""

import json
import socket
import time
from typing import Any

__all__ = ["Connection"]

_LONGEST_LINE = 4096


class Connection:
    """One end. Not for more than one thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._deadline: float | None = None

    def set_deadline(self, seconds: float | None) -> None:
        """From now on until then; afterwards everything raises TimeoutError."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def send(self, message: dict[str, Any], data: bytes | bytearray | memoryview | None = None) -> None:
        """Send a message, with bytes or without.

        Raises:
            OSError: the other side is gone, or the deadline is over (TimeoutError).
        """
        if data is not None:
            message = {**message, "bytes": len(data)}
        self._set_timeout()
        self._end.sendall(json.dumps(message).encode() + b"\n")
        if data is not None:
            self._set_timeout()
            self._end.sendall(data)

    def receive(self) -> dict[str, Any]:
        """The next message, without its bytes.

        Raises:
            EOFError: the other side has ended.
            OSError: it is gone, or the deadline is over (TimeoutError).
            ValueError: it does not speak this language.
        """
        line = bytearray()
        while not line.endswith(b"\n"):  # byte by byte: what follows is not ours to read yet, and it is short
            if len(line) > _LONGEST_LINE:
                raise ValueError("the line is too long")
            self._set_timeout()
            byte = self._end.recv(1)
            if not byte:
                raise EOFError
            line += byte
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message is an object")
        return message

    def receive_bytes(self, count: int) -> bytearray:
        """The bytes of the message just received. Errors as in `receive`."""
        data = bytearray(count)
        view = memoryview(data)
        while view:
            self._set_timeout()
            count = self._end.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data

    def close(self) -> None:
        self._end.close()

    def _set_timeout(self) -> None:
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._end.settimeout(left)
