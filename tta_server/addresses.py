"""Addresses of the internet in one form each: an IPv4 address that comes by IPv6 (`::ffff:192.0.2.1`) is that one."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")


def address_of(text: str) -> Address | None:
    """Return the address that a text is; None if it is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def network_of(text: str) -> Network:
    """Return the addresses that a text is about, one or a network.

    Raises:
        ValueError: If it is neither.
    """
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        return IPv4Network((int(found.network_address) & 0xFFFFFFFF, found.prefixlen - _MAPPED.prefixlen))
    return found


def host_of(text: str) -> str:
    """Return a host as one address is always written, or as it is if it is none."""
    return str(address_of(text) or text)
