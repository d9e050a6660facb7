"""Plugins of the node that watch and adjust pods and containers: what actors tell them, and what they may ask."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ocid.domain.nri import Adjusted, ContainerFacts, Event, Eviction, PodFacts, Resources, Update, Updated


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All that lives on the node, for a plugin that comes."""

    pods: tuple[PodFacts, ...] = ()
    containers: tuple[ContainerFacts, ...] = ()


class Node(Protocol):
    """What plugins may ask of the daemon."""

    def inventory(self) -> Inventory:
        """Return the pods and containers there are. From memory and the log."""

    async def update(self, update: Update, *, wait: bool) -> None:
        """Change a container's resources; return when they are in force or, unless told to *wait*, when it is asked.

        Raises:
            NotFound: there is no such container.
            WrongState: it is being made, or ended.
            OcidError: it could not be done.
        """

    async def evict(self, eviction: Eviction, *, wait: bool) -> None:
        """End a container; return when it has ended or, unless told to *wait*, when it is asked. One gone has.

        Raises:
            WrongState: it is being made.
            OcidError: it could not be done.
        """

    async def joined(self, plugin: str, pid: int, events: int) -> None:
        """Write into the log that a plugin came; *events* is its subscription, a bit for each event."""

    async def left(self, plugin: str, reason: str) -> None:
        """Write into the log that a plugin is gone."""


class Plugins(Protocol):
    """Whoever watches and adjusts. What a plugin itself does wrong costs the plugin; what it refuses is an error."""

    enabled: bool  # whether pods in the making are announced at all

    def wants(self, event: Event) -> bool:
        """Say whether anyone listens: where nobody does, nothing need be gathered to be told. From memory."""

    async def tell(self, event: Event, pod: PodFacts, container: ContainerFacts | None = None) -> None:
        """Tell all that listen, one after the other.

        Raises:
            EffectFailed: one of them answered with an error; its words are in the message.
        """

    async def adjust(self, pod: PodFacts, container: ContainerFacts) -> Adjusted:
        """Ask what is to be different about a container before it is made, and return it so. NRI CreateContainer.

        Raises:
            EffectFailed: a plugin refuses the container.
            AlreadyExists: two plugins set the same thing; the message names both.
            Unsupported: a plugin sets something that this build cannot do.
        """

    async def update(self, pod: PodFacts, container: ContainerFacts, wanted: Resources) -> Updated:
        """Ask what a container's resources shall be instead of *wanted*. NRI UpdateContainer.

        Raises:
            EffectFailed, AlreadyExists, Unsupported: as ``adjust``.
        """

    def settled(self, name: str) -> bool:
        """Take note that a pod or container is in the log, or never will be; say whether plugins were asked about it.

        *name* is its id. Until then it is among what a plugin that comes is told of.
        """


class NoPlugins:
    """Nobody watches. This is the default, and costs nothing."""

    enabled = False

    def wants(self, event: Event) -> bool:
        return False

    async def tell(self, event: Event, pod: PodFacts, container: ContainerFacts | None = None) -> None:
        pass

    async def adjust(self, pod: PodFacts, container: ContainerFacts) -> Adjusted:
        return Adjusted(spec=container.spec)

    async def update(self, pod: PodFacts, container: ContainerFacts, wanted: Resources) -> Updated:
        return Updated(resources=wanted)

    def settled(self, name: str) -> bool:
        return False
