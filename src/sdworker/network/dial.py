"""Opening a connection to an address that has been judged, and to no other.

A name may resolve to a public address when it is asked for the first time and to a private one the next (DNS
rebinding). So nothing here trusts a name that was judged before: the address is judged that the socket is about to
be connected to, for redirects and repeated tries as well.
"""

import asyncio
import os
import socket
import ssl
from functools import cache

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver

from sdworker.network.addresses import is_public
from sdworker.network.faults import Fault, NetworkError
from sdworker.network.names import Address, Resolver, lookup

__all__ = ["JudgedConnector", "NotPublicError", "connect", "dialled", "tls_context"]

_MOST_ADDRESSES = 4  # of one name; more are not tried


class NotPublicError(OSError):
    """An OSError, so that aiohttp treats the address as one that cannot be reached."""


async def dialled(host: str, port: int, *, public_only: bool) -> list[Address]:
    """The addresses of `host` that may be connected to, as the name resolves now.

    Raises:
        NetworkError: UNRESOLVED or NOT_PUBLIC.
    """
    try:
        found = await lookup(host, port)
    except OSError:
        raise NetworkError(Fault.UNRESOLVED) from None
    allowed = [address for address in found if not public_only or is_public(address[1][0])]
    if not allowed:
        raise NetworkError(Fault.NOT_PUBLIC)
    return allowed[:_MOST_ADDRESSES]


async def connect(host: str, port: int, *, public_only: bool, timeout_s: float) -> socket.socket:
    """A connection to the first address of `host` that takes it. `timeout_s` is for all of them together.

    Raises:
        NetworkError: UNRESOLVED, NOT_PUBLIC, UNREACHABLE or CONNECT_TIMEOUT.
    """
    addresses = await dialled(host, port, public_only=public_only)
    timed_out = False
    for family, sockaddr in addresses:
        try:
            async with asyncio.timeout(timeout_s / len(addresses)):
                return await _connect(family, sockaddr)
        except TimeoutError:
            timed_out = True
        except OSError:
            continue
    raise NetworkError(Fault.CONNECT_TIMEOUT if timed_out else Fault.UNREACHABLE)


async def _connect(family: socket.AddressFamily, sockaddr: tuple) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


class JudgedConnector(aiohttp.TCPConnector):
    """aiohttp's connector behind the same guard, names looked up the same way.

    Args:
        public_only: whether addresses that are not public are refused, with a NotPublicError.
    """

    def __init__(self, *, public_only: bool, resolver: AbstractResolver | None = None) -> None:
        super().__init__(
            resolver=resolver or Resolver(),
            socket_factory=_open_public_socket if public_only else None,
            ssl=tls_context(),
        )


def _open_public_socket(address: tuple) -> socket.socket:
    """aiohttp's `socket_factory`: called for each address right before it is dialled."""
    family, kind, protocol, _, sockaddr = address
    if not is_public(sockaddr[0]):
        raise NotPublicError("not a public address")
    return socket.socket(family, kind, protocol)


@cache
def tls_context() -> ssl.SSLContext:
    """Certificates are judged by the system's authorities (SSL_CERT_FILE), by certifi's, because slim images come
    without, and by those in AWS_CA_BUNDLE, where a bucket of one's own has an authority of one's own.

    Raises:
        OSError: AWS_CA_BUNDLE names a file that cannot be read.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        try:
            context.load_verify_locations(bundle)
        except OSError as error:
            raise OSError(f"AWS_CA_BUNDLE: not a readable file of certificates ({error.strerror})") from None
    return context
