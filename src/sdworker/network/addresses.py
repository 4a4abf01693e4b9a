"""Which internet addresses a job may make the worker talk to.

A job names URLs and buckets. Without a limit it could point the worker at the metadata service of its cloud or at
a neighbour inside the private network (CWE-918), so only public addresses are let through, whatever name they hide
behind.
"""

import ipaddress

__all__ = ["is_public"]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that has been given out of IPv6

# Not public, although `ipaddress` of some Python or other calls them global. Other metadata services are on
# link-local (169.254.169.254), shared (100.100.100.200) and unique local (fd00:ec2::254) addresses, which it
# knows.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocols' own; Oracle's metadata service is among them
        "168.63.129.16/32",  # Azure's host, as every machine there sees it
        "192.88.99.0/24",  # what is left of 6to4's relays
        "3fff::/20",  # documentation, RFC 9637
    )
)


def is_public(address: str) -> bool:
    """Whether `address` is a public unicast address. What is not an IP address is not public.

    An IPv4 address that travels inside an IPv6 one (mapped, 6to4, NAT64) is judged as the IPv4 address that the
    packets would reach.
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
        elif ip not in _GLOBAL_UNICAST:
            return False
    if any(ip in network for network in _SPECIAL if network.version == ip.version):
        return False
    # is_global alone calls some multicast and reserved addresses global; it does know CGNAT.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)
