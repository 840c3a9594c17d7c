"""Addresses of clients, and the networks they come from."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def within(host: str, networks: Iterable[Network]) -> bool:
    """Tell whether an address lies in one of the networks; IPv4 on a socket for both counts as IPv4 (RFC 4291)."""
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket, say
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
