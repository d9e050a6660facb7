"""Whether the OOM killer took processes of a container that has ended, also when its cgroup is gone already.

systemd removes a scope when its last process has ended, often before anybody reads its count. The cgroup above has
counted too, for version 2 counts upwards. What it counted and none of its present children has belongs to children that
are gone. What of that was known before does not belong to the one that has just ended.
"""

from __future__ import annotations

from ocid.adapters.cgroups import Cgroups
from ocid.ids import ContainerId
from ocid.ports import ContainerOrder


class OomCounts:
    """Kills in containers' cgroups, for as long as the containers are there."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._base: dict[ContainerId, int] = {}
        self._above: dict[ContainerId, str] = {}
        self._known: dict[str, int] = {}  # in cgroups above: kills in removed children that are accounted for
        self._seen: set[ContainerId] = set()

    def begin(self, order: ContainerOrder) -> None:
        """What was counted up to now is not this container's. Again changes nothing."""
        if order.container_id in self._above:
            return
        above, of_removed = self._cgroups.oom_kills_of_removed(order.cgroup)
        self._above[order.container_id] = above
        self._known.setdefault(above, of_removed)

    def made(self, order: ContainerOrder) -> None:
        """The container's cgroup was made just now; one that was there before may have a count."""
        self.begin(order)
        self._base[order.container_id] = self._cgroups.oom_kills(order.cgroup) or 0

    def happened(self, order: ContainerOrder) -> bool | None:
        """Say whether there were kills in a container that has ended; None where its own count is gone, and no other
        tells of one.
        """
        kills = self._cgroups.oom_kills(order.cgroup)
        above, of_removed = self._cgroups.oom_kills_of_removed(order.cgroup)
        known = self._known.get(above, of_removed)
        if order.container_id not in self._seen:
            if kills is None and of_removed > known:
                self._known[above] = of_removed
                self._seen.add(order.container_id)
            elif kills is not None and kills > self._base.get(order.container_id, 0):
                self._known[above] = known + kills  # it will be removed
                self._seen.add(order.container_id)
        return order.container_id in self._seen or (None if kills is None else False)

    def forget(self, order: ContainerOrder) -> None:
        """The container is removed."""
        self._base.pop(order.container_id, None)
        self._seen.discard(order.container_id)
        above = self._above.pop(order.container_id, None)
        if above is not None and above not in self._above.values():
            self._known.pop(above, None)
