"""Addresses of clients, as far as limits ask for them. Pure."""

from __future__ import annotations

import ipaddress


def place_of(address: str) -> str:
    """What counts as one place: an IPv4 address, the /64 that one customer has of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
