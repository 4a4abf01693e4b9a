"""The process: takes one file after another from standard input, a socket, until nobody is at its other end.

Before a file is opened, and again once its header has said how large the picture is, the kernel is told how much
memory and processor time it may take. What takes more memory is an error; what takes more time ends the process,
and the worker starts another.
"""

import contextlib
import ctypes
import math
import os
import signal
import socket
import sys
import time

from sdworker.decoder.errors import PictureError
from sdworker.decoder.messages import Connection
from sdworker.decoder.pixels import decode_hint, decode_mask, decode_picture
from sdworker.decoder.resize import to_pixels

try:
    import resource
except ImportError:  # Windows: the worker's own deadline is what is left
    resource = None  # type: ignore[assignment]

_PR_SET_PDEATHSIG = 1

# What a picture may take: so much to be opened, and so much more for each pixel of it. Good ones take 5 to 17.7
# bytes and 0.02 to 0.09 s a megapixel (any format, 32 megapixels, on one core of an AMD EPYC).
_OPEN_BYTES, _PIXEL_BYTES = 64 * 2**20, 18
_OPEN_S, _MEGAPIXEL_S = 2.0, 0.25


class _TooLargeHere(Exception):
    """The picture has more pixels than this process is to take."""


def main() -> None:
    _end_with(int(sys.argv[1]))
    _keep_within()
    connection = Connection(socket.socket(fileno=0))
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            _serve_one(connection)
            _give_back()


def _serve_one(connection: Connection) -> None:
    asked = connection.receive()
    data = bytes(connection.receive_bytes(asked["bytes"]))
    own_bytes = _address_space()
    decode = {"RGB": decode_picture, "L": decode_mask, "HINT": decode_hint}[asked["mode"]]

    def on_header(pixels: int) -> None:
        if pixels > asked["pixels_here"]:
            raise _TooLargeHere
        _bound(own_bytes, len(data), pixels)

    try:
        _bound(own_bytes, len(data), 0)
        image = decode(data, asked["max_pixels"], on_header)
        connection.send({"size": image.size})
        wanted = connection.receive()
        if not wanted:
            return
        width, height = wanted["size"]
        pixels = to_pixels(image, width, height, wanted["resize"], like=wanted["like"]).tobytes()
    except _TooLargeHere:
        connection.send({"too_large_here": True})
    except PictureError as error:
        connection.send({"error": str(error)})
    except MemoryError:
        connection.send({"error": "the picture takes more memory than one of its size should"})
    else:
        connection.send({}, pixels)
    finally:
        _unbound()


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent (Linux). Elsewhere it ends after the picture at hand."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()
    # Those that reach a whole group are for the worker, which may have jobs to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _keep_within() -> None:
    """No core file of a caller's picture, no file written, no process started."""
    if resource is None:
        return
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 32)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (most, most))


def _bound(own_bytes: int, file_bytes: int, pixels: int) -> None:
    """Bound what this process may take from now on for a picture.

    Args:
        own_bytes: the address space it has without it; 0: the system does not say, and does not bound it either.
    """
    memory = own_bytes + _OPEN_BYTES + 3 * file_bytes + _PIXEL_BYTES * pixels if own_bytes else None
    _limit("RLIMIT_AS", memory)
    _limit("RLIMIT_CPU", math.ceil(time.process_time() + _OPEN_S + _MEGAPIXEL_S * pixels / 1e6))


def _unbound() -> None:
    _limit("RLIMIT_AS", None)
    _limit("RLIMIT_CPU", None)


def _limit(name: str, most: int | None) -> None:
    """Set a limit of the kernel that can be lifted again; None lifts it."""
    if resource is None:
        return
    limit = getattr(resource, name)
    hard = resource.getrlimit(limit)[1]
    if most is None or (hard != resource.RLIM_INFINITY and most > hard):
        most = hard
    resource.setrlimit(limit, (most, hard))


def _address_space() -> int:
    """Bytes of address space in use now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is not worth importing
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _give_back() -> None:
    """What the last picture took (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
