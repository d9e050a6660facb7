"""Addresses: free in the log, not promised a moment ago, one of each subnet, and round and round."""

from __future__ import annotations

import pytest

from ocid.actors.leasing import Leasing
from ocid.errors import Exhausted
from ocid.ids import PodId

V4, V6, TINY = "10.88.0.0/24", "fd00:88::/64", "10.88.0.0/29"


class Log:
    """Which addresses the log says are leased, and which pods live."""

    def __init__(self) -> None:
        self.leases: dict[str, PodId] = {}
        self.last: tuple[str, ...] = ()
        self.alive: set[str] = set()

    def leasing(self) -> Leasing:
        return Leasing(self.leases, lambda: self.last, lambda pod_id: pod_id in self.alive)

    def durable(self, pod_id: str, addresses: tuple[str, ...]) -> None:
        self.leases.update(dict.fromkeys(addresses, PodId(pod_id)))
        self.last = addresses


def test_the_first_pod_gets_the_first_address_of_each_subnet() -> None:
    assert Log().leasing().choose(PodId("a"), (V4, V6)) == ("10.88.0.2/24", "fd00:88::2/64")


def test_what_is_promised_is_not_given_twice() -> None:
    log = Log()
    log.alive = {"a", "b"}
    leasing = log.leasing()

    assert leasing.choose(PodId("a"), (V4,)) != leasing.choose(PodId("b"), (V4,))


def test_a_promise_to_a_pod_that_never_came_to_be_is_void() -> None:
    log = Log()
    leasing = log.leasing()
    log.alive = {"a"}
    promised = leasing.choose(PodId("a"), (TINY,))
    log.alive = set()
    rest = set()
    for number in range(5):
        log.alive.add(str(number))
        rest.add(leasing.choose(PodId(str(number)), (TINY,)))

    assert promised in rest, "all five addresses are to be had"


def test_a_full_subnet_says_so() -> None:
    log = Log()
    leasing = log.leasing()
    for number in range(5):
        log.alive.add(str(number))
        log.durable(str(number), leasing.choose(PodId(str(number)), (TINY,)))
    with pytest.raises(Exhausted, match="full"):
        leasing.choose(PodId("x"), (TINY,))


def test_addresses_go_round_before_one_comes_again() -> None:
    log = Log()
    leasing = log.leasing()
    first = leasing.choose(PodId("a"), (V4, V6))
    log.durable("a", first)
    log.leases.clear()  # the pod is gone
    second = leasing.choose(PodId("b"), (V4, V6))

    assert second == ("10.88.0.3/24", "fd00:88::3/64")
