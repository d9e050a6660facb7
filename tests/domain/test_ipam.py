"""Addresses are given out round robin, never twice, never one that is not a pod's."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given, strategies as st

from ocid.domain import ipam
from ocid.errors import Exhausted, InvalidRequest


@pytest.mark.parametrize(
    ("subnet", "taken", "last", "chosen"),
    [
        ("10.88.0.0/16", [], None, "10.88.0.2/16"),
        ("10.88.0.0/16", ["10.88.0.2/16"], None, "10.88.0.3/16"),
        ("10.88.0.0/16", ["10.88.0.2"], None, "10.88.0.3/16"),
        ("10.88.0.0/16", [], "10.88.0.2/16", "10.88.0.3/16"),
        ("10.88.0.0/16", {"10.88.0.6/16"}, "10.88.0.5", "10.88.0.7/16"),
        ("10.88.0.0/16", {"10.99.0.2/16": "pod"}, "10.99.0.2", "10.88.0.2/16"),
        ("10.88.0.0/16", [], "10.88.255.254", "10.88.0.2/16"),
        ("10.88.0.0/29", ["10.88.0.2", "10.88.0.3"], "10.88.0.6", "10.88.0.4/29"),
        ("10.88.0.0/16", [], "fd00::9", "10.88.0.2/16"),
        ("10.88.0.0/16", [], "10.88.255.255", "10.88.0.3/16"),
        ("fd00:88::/64", [], None, "fd00:88::2/64"),
        ("fd00:88::/64", ["fd00:88::2/64"], "fd00:88::1", "fd00:88::3/64"),
        ("fd00:88::/125", [], "fd00:88::7", "fd00:88::2/125"),
    ],
)
def test_choose(subnet, taken, last, chosen):
    assert ipam.choose(subnet, taken, last) == chosen


@pytest.mark.parametrize(
    ("subnet", "says"),
    [
        ("10.88.0.0", "no prefix length"),
        ("10.88.0.1/16", "host bits"),
        ("ten/16", "not a CIDR"),
        ("10.88.0.0/255.255.0.0/1", "not a CIDR"),
        ("10.88.0.0/30", "outside 8 to 29"),
        ("0.0.0.0/0", "outside 8 to 29"),
        ("fd00::/126", "outside 8 to 125"),
        ("224.0.0.0/8", "multicast"),
        ("127.0.0.0/8", "loopback"),
        ("fe80::/64", "link-local"),
        ("", "no prefix length"),
    ],
)
def test_a_bad_subnet_is_refused_with_the_reason(subnet, says):
    with pytest.raises(InvalidRequest, match=says):
        ipam.choose(subnet, [], None)


@pytest.mark.parametrize("subnets", [[], ["10.1.0.0/16", "10.2.0.0/16"], ["fd00::/64", "fd01::/64"]])
def test_a_network_has_at_most_one_subnet_of_each_version(subnets):
    with pytest.raises(InvalidRequest):
        ipam.subnets_of(subnets)


def test_subnets_keep_their_order():
    assert [str(subnet) for subnet in ipam.subnets_of(["fd00::/64", "10.1.0.0/16"])] == ["fd00::/64", "10.1.0.0/16"]


def test_a_malformed_last_address_is_refused():
    with pytest.raises(InvalidRequest, match="'nonsense'"):
        ipam.choose("10.88.0.0/16", [], "nonsense")


def test_gateway_is_the_first_host():
    assert ipam.gateway("10.88.0.0/16") == "10.88.0.1/16"
    assert ipam.gateway("fd00:88::/64") == "fd00:88::1/64"


@pytest.mark.parametrize(("subnet", "count"), [("10.88.0.0/29", 5), ("10.88.0.0/24", 253), ("fd00::/125", 6)])
def test_every_address_is_given_out_once_and_then_the_subnet_is_full(subnet, count):
    given_out: list[str] = []
    last = None
    for _ in range(count):
        last = ipam.choose(subnet, given_out, last)
        given_out.append(last)

    assert len(set(given_out)) == count == ipam.capacity(subnet)
    network = ipaddress.ip_network(subnet)
    hosts = {ipaddress.ip_interface(address).ip for address in given_out}
    assert hosts == set(network.hosts()) - {network.network_address + 1, network.network_address}
    with pytest.raises(Exhausted, match=rf"{subnet} is full: all {count} addresses"):
        ipam.choose(subnet, given_out, last)


@given(
    subnet=st.sampled_from(["10.88.0.0/28", "10.88.0.0/27", "fd00:88::/124"]),
    steps=st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=60),
)
def test_no_address_is_ever_given_out_twice(subnet, steps):
    taken: dict[str, None] = {}
    last = None
    for release in steps:
        if release is not None and taken:
            del taken[list(taken)[release % len(taken)]]
        elif len(taken) < ipam.capacity(subnet):
            last = ipam.choose(subnet, taken, last)
            assert last not in taken
            assert last != ipam.gateway(subnet)
            taken[last] = None


@given(released=st.integers(0, 200))
def test_a_released_address_rests_as_long_as_possible(released):
    """One address free behind the last one is taken only after all those ahead."""
    subnet = "10.88.0.0/24"
    taken = {f"10.88.0.{host}/24" for host in range(2, 203)} - {f"10.88.0.{released + 2}/24"}

    assert ipam.choose(subnet, taken, "10.88.0.202/24") == "10.88.0.203/24"


@pytest.mark.parametrize("subnet", ["10.64.0.0/12", "fd00:88::/64"])
def test_fifty_thousand_taken_addresses_cost_little(subnet):
    base = ipaddress.ip_network(subnet).network_address
    prefix = subnet.partition("/")[2]
    taken = {f"{base + host}/{prefix}": "pod" for host in range(2, 50_002)}

    begin = time.perf_counter()
    assert ipam.choose(subnet, taken, f"{base + 50_001}/{prefix}") == f"{base + 50_002}/{prefix}"
    assert time.perf_counter() - begin < 0.005

    begin = time.perf_counter()
    assert ipam.choose(subnet, taken, None) == f"{base + 50_002}/{prefix}"  # the worst case: all are looked at
    assert time.perf_counter() - begin < 2
