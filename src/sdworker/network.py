"""Which internet addresses a job may make the worker talk to.

A job names URLs and buckets. Without a limit it could point the worker at the metadata service of
its cloud or at a neighbour inside the private network (CWE-918), so only public addresses are let
through, whatever name they hide behind.
"""

import asyncio
import ipaddress
import socket

__all__ = ["all_public", "is_public"]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether `address` is a public unicast address. What is not an IP address is not public.

    An IPv4 address that travels inside an IPv6 one (mapped, 6to4, NAT64) is judged as the IPv4
    address that the packets would reach.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip.is_site_local:
            return False
    # is_global alone calls some multicast and reserved addresses global; it does know CGNAT.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


async def all_public(host: str, port: int) -> bool:
    """Whether every address of `host` is public, as the name resolves now.

    A name can resolve differently a moment later: where the connection is ours to open, check the
    address that is dialled instead (`pictures.fetch`).

    Raises:
        OSError: the name does not resolve.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return all(is_public(str(sockaddr[0])) for *_, sockaddr in found)
