"""Changing the limits of a living container: what the kubelet wants and plugins make of it, and what plugins want."""

from __future__ import annotations

from typing import Any

import msgspec

from ocid.actors.actor import Note
from ocid.actors.host import Host
from ocid.actors.plugins import Hooks, plugins_of
from ocid.domain import container_update as domain
from ocid.domain.configs import ContainerConfig, LinuxResources
from ocid.domain.container import Container
from ocid.domain.nri import Event, Updated
from ocid.domain.nri_limits import WiderResources, after, as_made, oci_of, told_of, wider
from ocid.domain.spec.inputs import HostFacts
from ocid.domain.spec.process import clamped_oom_score_adj
from ocid.errors import OcidError, Unsupported
from ocid.events.container import UpdateAdjusted
from ocid.ids import digest_of
from ocid.ports import ContainerOrder, LimitsOrder


async def apply_update(
    host: Host, hooks: Hooks, order: ContainerOrder, state: Container, effect: domain.ApplyUpdate
) -> Note:
    """Put the change into force and say so, or say why it is not. A refusal is final: the caller may ask again.

    Plugins are asked before, and told afterwards, where the change is not theirs.
    """
    adjusted: tuple[UpdateAdjusted, ...] = ()
    documents: tuple[bytes, ...] = ()
    try:
        change = msgspec.json.decode(host.journal.document(effect.change), type=WiderResources)
        if not effect.plugins:
            asked = await hooks.updating(state, told_of(change))
            if asked.changes:
                change = wider(change, asked.resources)
                adjusted, documents = _adjusted(effect.update_id, asked, change)
        spec = _spec(host, state)
        wanted, facts = after(_in_force(host, state, spec), change), host.runtime.host_facts()
        await host.runtime.update(order, _order(effect.update_id, change, oci_of(wanted, spec, facts), facts))
    except OcidError as error:
        kind = type(error).__name__
        refused = domain.NoteUpdateRefused(
            update_id=effect.update_id, error=kind, message=error.message, adjusted=adjusted
        )
        return Note(refused, documents)
    if not effect.plugins:
        await hooks.mention(Event.POST_UPDATE_CONTAINER, state, limits=wanted)
    document = msgspec.json.encode(wanted)
    updated = domain.NoteUpdated(update_id=effect.update_id, limits=digest_of(document), adjusted=adjusted)
    return Note(updated, (*documents, document))


def _adjusted(
    update_id: str, asked: Updated, change: WiderResources
) -> tuple[tuple[UpdateAdjusted, ...], tuple[bytes, ...]]:
    changes, document = msgspec.json.encode(asked.changes), msgspec.json.encode(change)
    adjusted = UpdateAdjusted(
        update_id=update_id,
        plugins=plugins_of(asked.changes),
        count=len(asked.changes),
        changes=digest_of(changes),
        change=digest_of(document),
        brief=domain.brief(change),
    )
    return (adjusted,), (changes, document)


def _order(update_id: str, change: LinuxResources, resources: dict[str, Any], facts: HostFacts) -> LimitsOrder:
    if change.unified and facts.cgroup_version != 2:
        raise Unsupported(f"unified names {min(change.unified)!r}, but this host's cgroups are version 1, not 2")
    score = clamped_oom_score_adj(change.oom_score_adj, facts) if change.oom_score_adj else None
    return LimitsOrder(update_id=update_id, resources=resources, oom_score_adj=score)


def _spec(host: Host, state: Container) -> dict[str, Any]:
    assert state.prepared is not None, "only what is created can change"
    return msgspec.json.decode(host.journal.document(state.prepared.spec), type=dict[str, Any])


def _in_force(host: Host, state: Container, spec: dict[str, Any]) -> WiderResources:
    if state.limits.in_force is not None:
        return msgspec.json.decode(host.journal.document(state.limits.in_force), type=WiderResources)
    assert state.declared is not None, "an undeclared container owes nothing"
    config = msgspec.json.decode(host.journal.document(state.declared.config), type=ContainerConfig)
    return as_made(config.linux.resources or LinuxResources(), spec)
