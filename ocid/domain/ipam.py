"""Choosing pod addresses of the built-in network. Pure: which addresses are taken is for the log to say.

A subnet of *n* addresses gives *n* - 3 IPv4 pods or *n* - 2 IPv6 pods: the network address (in IPv6 the subnet-router
anycast address, RFC 4291 2.6.1) and the first host, which is the gateway, are never given out, nor is the IPv4
broadcast address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Set
from functools import lru_cache
from typing import Final

from ocid.errors import Exhausted, InvalidRequest

IPV4_PREFIX_MAX: Final = 29  # 5 pods; below that nothing is left to go round
IPV6_PREFIX_MAX: Final = 125
PREFIX_MIN: Final = 8  # wider than any node's share; keeps typing errors such as /1 out
FIRST: Final = 2  # offset of the first pod's address: after the network's and the gateway's

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=16)
def subnet_of(text: str) -> Subnet:
    """Read a pod subnet such as ``10.88.0.0/16`` or ``fd00:88::/64``.

    Raises:
        InvalidRequest: it is no CIDR, has host bits set, is too small or too wide, or is not unicast.
    """
    if "/" not in text:
        raise InvalidRequest(f"pod subnet {text!r} has no prefix length: wanted a CIDR such as '10.88.0.0/16'")
    try:
        subnet = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise InvalidRequest(f"pod subnet {text!r} is not a CIDR: {error}") from None
    longest = IPV4_PREFIX_MAX if subnet.version == 4 else IPV6_PREFIX_MAX
    if not PREFIX_MIN <= subnet.prefixlen <= longest:
        raise InvalidRequest(f"pod subnet {text!r} has a prefix length outside {PREFIX_MIN} to {longest}")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_unspecified or subnet.is_link_local:
        raise InvalidRequest(f"pod subnet {text!r} is multicast, loopback or link-local: wanted unicast addresses")
    return subnet


def subnets_of(texts: Collection[str]) -> tuple[Subnet, ...]:
    """Read the subnets of one network: at least one, at most one of each IP version, the primary one first.

    Raises:
        InvalidRequest: one of them is bad, there is none, or there are two of one version.
    """
    subnets = tuple(subnet_of(text) for text in texts)
    if not subnets:
        raise InvalidRequest("the pod network has no subnet: wanted an IPv4 one, an IPv6 one, or one of each")
    if len({subnet.version for subnet in subnets}) != len(subnets):
        raise InvalidRequest(f"pod subnets {', '.join(texts)}: wanted at most one IPv4 and one IPv6 subnet")
    return subnets


def gateway(subnet: str) -> str:
    """Return the first host of *subnet* as a CIDR address: the bridge's own, and the pods' default route."""
    network = subnet_of(subnet)
    return f"{network.network_address + 1}/{network.prefixlen}"


def capacity(subnet: str) -> int:
    """Return how many pods *subnet* has addresses for."""
    network = subnet_of(subnet)
    return network.num_addresses - (3 if network.version == 4 else 2)


def choose(subnet: str, taken: Collection[str], last: str | None) -> str:
    """Return the next free address of *subnet* after *last*, going round, as a CIDR with the subnet's prefix length.

    Going round keeps an address unused for as long as possible after its pod is gone, so that late packets and old
    neighbour entries do not reach another pod. Nearly always one or two look-ups; give a set or a dictionary.

    Args:
        taken: addresses in use, as this function returned them, or the same without the prefix length; others do no
            harm.
        last: the address given out last, in the same forms; None, or one outside *subnet*, starts from the beginning.
    Raises:
        InvalidRequest: *subnet* or *last* is malformed.
        Exhausted: every address is taken.
    """
    network = subnet_of(subnet)
    first = network.network_address + FIRST
    used = taken if isinstance(taken, Set | Mapping) else frozenset(taken)
    total = capacity(subnet)
    start = 0 if last is None else _after(network, last)
    for step in range(min(total, len(used) + 1)):  # of one more than are used, one is free
        bare = str(first + (start + step) % total)
        found = f"{bare}/{network.prefixlen}"
        if found not in used and bare not in used:
            return found
    raise Exhausted(f"pod subnet {subnet} is full: all {total} addresses are taken; remove pods or widen the subnet")


def _after(network: Subnet, last: str) -> int:
    """Count the address after *last* from the first one that pods get; 0 when *last* is not one of them."""
    try:
        address = ipaddress.ip_address(last.partition("/")[0])
    except ValueError:
        raise InvalidRequest(f"{last!r} is not an IP address") from None
    return int(address) - int(network.network_address) - FIRST + 1 if address in network else 0
