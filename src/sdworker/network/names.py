"""Host names to addresses, in threads that nobody has to wait for.

The system's `getaddrinfo` blocks, and a name whose servers do not answer makes it block for half a minute. In the
event loop's own pool a few such names would hold up every other job's lookups, encoding and base64, and the
process's end. Here each name has a thread of its own for as long as it takes, which ends with the process.
"""

import asyncio
import contextlib
import socket
import threading

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["Address", "Resolver", "lookup"]

# One thread is some 50 KB; so many names that hang at once are no accident.
_MOST_THREADS = 256
_TIMEOUT_S = 10.0

Address = tuple[socket.AddressFamily, tuple]  # as `getaddrinfo` has them: family and sockaddr

_free = threading.BoundedSemaphore(_MOST_THREADS)
_under_way: dict[tuple[str, int], "asyncio.Future[list[Address]]"] = {}


async def lookup(host: str, port: int) -> list[Address]:
    """The addresses of `host`, in the order in which the system would try them.

    Whoever asks for a name that is being looked up shares the answer.

    Raises:
        OSError: it does not resolve, or not within some seconds.
    """
    key = host, port
    answer = _under_way.get(key)
    if answer is None or answer.done() or answer.get_loop() is not asyncio.get_running_loop():
        answer = _ask(key)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await asyncio.shield(answer)
    except TimeoutError:
        raise OSError("the name was not resolved in time") from None


def _ask(key: tuple[str, int]) -> "asyncio.Future[list[Address]]":
    if not _free.acquire(blocking=False):
        raise OSError("too many names are being looked up")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()
    # Nobody may be left to hear of an error; asyncio would log it then.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def work() -> None:
        result: list[Address] | OSError
        try:
            found = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
            result = [(family, sockaddr) for family, _, _, _, sockaddr in found]
        except OSError as error:
            result = error
        except Exception as error:  # UnicodeError: a label that is empty or too long
            result = OSError(f"not a host name ({type(error).__name__})")
        finally:
            _free.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result)

    def settle(result: list[Address] | OSError) -> None:
        if _under_way.get(key) is answer:
            del _under_way[key]
        if answer.done():
            return
        if isinstance(result, OSError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    try:
        threading.Thread(target=work, name="lookup", daemon=True).start()
    except RuntimeError as error:
        _free.release()
        raise OSError("no thread to look a name up in") from error
    _under_way[key] = answer
    return answer


class Resolver(AbstractResolver):
    """`lookup` for aiohttp."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=sockaddr[0],
                port=port,
                family=found,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, sockaddr in await lookup(host, port)
            if family in (socket.AF_UNSPEC, found)
        ]

    async def close(self) -> None:
        """Nothing is held."""
