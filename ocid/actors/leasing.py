"""Choosing addresses for pods of the built-in network: free in the log, and not promised a moment ago."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ocid.domain import ipam
from ocid.ids import PodId


class Leasing:
    """Chooses addresses. A lease itself is part of the pod's declaration, so it is durable before it is used."""

    def __init__(
        self, leases: Mapping[str, PodId], last: Callable[[], tuple[str, ...]], alive: Callable[[PodId], bool]
    ) -> None:
        """*leases* and *last* come from the log; *alive* says whether a pod's actor still exists."""
        self._leases = leases
        self._last = last
        self._alive = alive
        self._promised: dict[str, PodId] = {}  # chosen, not yet seen in the log

    def choose(self, pod_id: PodId, subnets: tuple[str, ...]) -> tuple[str, ...]:
        """Return one free address of each subnet, as CIDR.

        Raises:
            Exhausted: a subnet has none left.
        """
        self._promised = {
            address: holder
            for address, holder in self._promised.items()
            if address not in self._leases and self._alive(holder)
        }
        taken = self._leases.keys() | self._promised.keys()
        newest = [*self._last(), *self._promised]
        chosen = tuple(
            ipam.choose(subnet, taken, next((one for one in reversed(newest) if (":" in one) == (":" in subnet)), None))
            for subnet in subnets
        )
        self._promised.update(dict.fromkeys(chosen, pod_id))
        return chosen
