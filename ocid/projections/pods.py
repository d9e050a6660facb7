"""Pods by id and by key, their configurations, and the addresses they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ocid.domain import pod as domain
from ocid.domain.configs import LinuxResources, PodConfig
from ocid.domain.pod import Pod
from ocid.events.pod import Declared
from ocid.ids import Digest, PodId
from ocid.projections.fold import Fold, Row


class PodKey(NamedTuple):
    """What makes two RunPodSandbox calls the same request. CRI PodSandboxMetadata."""

    namespace: str
    name: str
    uid: str
    attempt: int


def key_of(declared: Declared) -> PodKey:
    """Return the key of a declared pod."""
    return PodKey(declared.namespace, declared.name, declared.uid, declared.attempt)


class Pods(Fold[Pod]):
    """Every pod that is not removed."""

    def __init__(self, document: Callable[[Digest], bytes]) -> None:
        super().__init__(domain)
        self._document = document
        self._configs: dict[str, PodConfig] = {}
        self.by_key: dict[PodKey, PodId] = {}  # of pods that a retry of their request joins
        self.leases: dict[str, PodId] = {}  # address as CIDR → its pod
        self.last_leased: tuple[str, ...] = ()

    def changed(self, name: str, before: Row[Pod] | None, after: Row[Pod] | None) -> None:
        """Keep keys, leases and configurations in step."""
        row = after or before
        if row is None or row.state.declared is None:
            return
        declared = row.state.declared
        if before is None and after is not None:
            self.by_key[key_of(declared)] = declared.pod_id
            self.leases.update(dict.fromkeys(declared.addresses, declared.pod_id))
            self.last_leased = declared.addresses or self.last_leased
        if (after is None or after.state.remove_wanted) and self.by_key.get(key_of(declared)) == declared.pod_id:
            del self.by_key[key_of(declared)]
        if after is None or after.state.detached:
            for address in declared.addresses:
                if self.leases.get(address) == declared.pod_id:
                    del self.leases[address]
        if after is None or (before is not None and _told(before.state) != _told(after.state)):
            self._configs.pop(name, None)

    def config(self, pod_id: str) -> PodConfig:
        """Return the configuration of a pod that has a row, with the resources that were told last."""
        config = self._configs.get(pod_id)
        if config is None:
            state = self.rows[pod_id].state
            assert state.declared is not None, f"pod {pod_id} has a row without a declaration"
            config = msgspec.json.decode(self._document(state.declared.config), type=PodConfig)
            told = {name: msgspec.json.decode(self._document(one), type=LinuxResources) for name, one in _told(state)}
            if told:
                config = msgspec.structs.replace(config, linux=msgspec.structs.replace(config.linux, **told))
            self._configs[pod_id] = config
        return config

    def created_after(self, namespace: str, name: str, uid: str) -> int:
        """Return the newest created_at among this pod's sandboxes, in nanoseconds; 0 when there is none."""
        times = (
            row.state.declared.created_at_ns
            for row in self.rows.values()
            if row.state.declared is not None and key_of(row.state.declared)[:3] == (namespace, name, uid)
        )
        return max(times, default=0)


def _told(state: Pod) -> list[tuple[str, Digest]]:
    """List which fields of LinuxPodConfig have been told anew, with their documents."""
    told = (("overhead", state.overhead), ("resources", state.resources))
    return [(name, document) for name, document in told if document is not None]


def is_listed(state: Pod) -> bool:
    """Say whether CRI lists the pod: one in the making is not, one that failed or was given up and stays is."""
    return state.ready or state.failed is not None or state.gave_up is not None
