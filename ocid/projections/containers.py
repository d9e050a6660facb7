"""Containers by id, by pod and by name, and their configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ocid.domain import container as domain
from ocid.domain.configs import ContainerConfig, LinuxResources
from ocid.domain.container import Container
from ocid.events.container import Declared
from ocid.ids import ContainerId, Digest, PodId
from ocid.projections.fold import Fold, Row


class ContainerKey(NamedTuple):
    """What makes two CreateContainer calls the same request. CRI ContainerMetadata within its pod."""

    pod_id: PodId
    name: str
    attempt: int


def key_of(declared: Declared) -> ContainerKey:
    """Return the key of a declared container."""
    return ContainerKey(declared.pod_id, declared.name, declared.attempt)


class Containers(Fold[Container]):
    """Every container that is not removed."""

    def __init__(self, document: Callable[[Digest], bytes]) -> None:
        super().__init__(domain)
        self._document = document
        self._configs: dict[str, ContainerConfig] = {}
        self.by_key: dict[ContainerKey, ContainerId] = {}  # of containers that a retry of their request joins
        self.by_pod: dict[PodId, dict[ContainerId, None]] = {}  # in order of declaration

    def changed(self, name: str, before: Row[Container] | None, after: Row[Container] | None) -> None:
        """Keep keys, pods and configurations in step."""
        row = after or before
        if row is None or row.state.declared is None:
            return
        declared = row.state.declared
        if before is None and after is not None:
            self.by_key[key_of(declared)] = declared.container_id
            self.by_pod.setdefault(declared.pod_id, {})[declared.container_id] = None
        if (after is None or after.state.remove_wanted) and self.by_key.get(key_of(declared)) == declared.container_id:
            del self.by_key[key_of(declared)]
        if before is not None and after is not None and before.state.limits.in_force != after.state.limits.in_force:
            self._configs.pop(name, None)
        if after is None:
            self._configs.pop(name, None)
            siblings = self.by_pod.get(declared.pod_id, {})
            siblings.pop(declared.container_id, None)
            if not siblings:
                self.by_pod.pop(declared.pod_id, None)

    def config(self, container_id: str) -> ContainerConfig:
        """Return the configuration of a container that has a row, with the limits that are in force now.

        Secrets are replaced by commitments.
        """
        config = self._configs.get(container_id)
        if config is None:
            state = self.rows[container_id].state
            assert state.declared is not None, f"container {container_id} has a row without a declaration"
            config = msgspec.json.decode(self._document(state.declared.config), type=ContainerConfig)
            if state.limits.in_force is not None:
                limits = msgspec.json.decode(self._document(state.limits.in_force), type=LinuxResources)
                linux = msgspec.structs.replace(config.linux, resources=limits)
                config = msgspec.structs.replace(config, linux=linux)
            self._configs[container_id] = config
        return config

    def created_after(self, pod_id: PodId) -> int:
        """Return the newest created_at among the pod's containers, in nanoseconds; 0 when there is none."""
        states = (self.rows[container].state for container in self.by_pod.get(pod_id, ()))
        return max((state.declared.created_at_ns for state in states if state.declared is not None), default=0)


def is_listed(state: Container) -> bool:
    """Say whether CRI lists the container: one in the making is not, nor one whose making failed."""
    return state.prepared is not None and state.prepare_failed is None
