"""What a pod can owe the world: the effects that ``ocid.domain.pod`` plans, as data."""

from __future__ import annotations

import msgspec


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """Pin namespaces, mount shared memory, write files."""


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """Attach the pod to its network."""


class StartPause(msgspec.Struct, frozen=True, kw_only=True):
    """Run the process that holds the shared PID namespace."""


class Announce(msgspec.Struct, frozen=True, kw_only=True):
    """Tell plugins of the pod, which may refuse it."""


class WatchPause(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for the pause process to end, which it should not."""

    pid: int
    start_ticks: int
    failures: int


class StopContainers(msgspec.Struct, frozen=True, kw_only=True):
    """Kill whatever containers of the pod still run."""

    failures: int


class Detach(msgspec.Struct, frozen=True, kw_only=True):
    """Take the pod off its network."""

    failures: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Take down namespaces, mounts and the pause process."""

    failures: int


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    """Remove the pod's containers and what is left of its files."""

    failures: int


Effect = Prepare | Attach | StartPause | Announce | WatchPause | StopContainers | Detach | Release | Erase
