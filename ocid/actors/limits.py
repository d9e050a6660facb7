"""Changing the limits of a living container."""

from __future__ import annotations

import msgspec

from ocid.actors.actor import Note
from ocid.actors.host import Host
from ocid.domain import container_update as domain
from ocid.domain.configs import ContainerConfig, LinuxResources
from ocid.domain.spec.inputs import HostFacts
from ocid.domain.spec.process import clamped_oom_score_adj
from ocid.domain.spec.resources import merged, oci_resources
from ocid.errors import OcidError, Unsupported
from ocid.events.container import Declared
from ocid.ids import Digest, digest_of
from ocid.ports import ContainerOrder, LimitsOrder


async def apply_update(host: Host, order: ContainerOrder, declared: Declared, effect: domain.ApplyUpdate) -> Note:
    """Put the change into force and say so, or say why it is not. A refusal is final: the caller may ask again."""
    try:
        change = _resources(host, effect.change)
        wanted = merged(_in_force(host, declared, effect.in_force), change)
        facts = host.runtime.host_facts()
        await host.runtime.update(order, _order(effect.update_id, change, wanted, facts))
    except OcidError as error:
        kind = type(error).__name__
        return Note(domain.NoteUpdateRefused(update_id=effect.update_id, error=kind, message=error.message))
    document = msgspec.json.encode(wanted)
    return Note(domain.NoteUpdated(update_id=effect.update_id, limits=digest_of(document)), (document,))


def _order(update_id: str, change: LinuxResources, wanted: LinuxResources, facts: HostFacts) -> LimitsOrder:
    if change.unified and facts.cgroup_version != 2:
        raise Unsupported(f"unified names {min(change.unified)!r}, but this host's cgroups are version 1, not 2")
    score = clamped_oom_score_adj(change.oom_score_adj, facts) if change.oom_score_adj else None
    return LimitsOrder(update_id=update_id, resources=oci_resources(wanted, facts), oom_score_adj=score)


def _in_force(host: Host, declared: Declared, limits: Digest | None) -> LinuxResources:
    if limits is not None:
        return _resources(host, limits)
    config = msgspec.json.decode(host.journal.document(declared.config), type=ContainerConfig)
    return config.linux.resources or LinuxResources()


def _resources(host: Host, document: Digest) -> LinuxResources:
    return msgspec.json.decode(host.journal.document(document), type=LinuxResources)
