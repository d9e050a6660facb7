"""What a container can owe the world: the effects that ``ocid.domain.container`` plans, as data."""

from __future__ import annotations

import msgspec

from ocid.domain import container_restore as restores, container_update as updates


class PrepareEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Prepare"):
    """Mount the root file system, build and write the specification."""


class CreateEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Create"):
    """Have monitor and runtime make the container."""


class StartEffect(msgspec.Struct, frozen=True, kw_only=True, tag="Start"):
    """Let its program run."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for its init to end."""

    pid: int
    start_ticks: int
    failures: int


class Terminate(msgspec.Struct, frozen=True, kw_only=True):
    """Send the stop signal, wait, kill when the time is up, wait for the end."""

    pid: int
    start_ticks: int
    signal: str
    kill_at_boot_ns: int
    failures: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Delete runtime state, unmount, remove the cgroup."""

    failures: int


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    """Remove the writable layer and the bundle."""

    failures: int


Effect = (
    PrepareEffect | CreateEffect | updates.ApplyUpdate | StartEffect | Watch | Terminate | Release | Erase
    | restores.Effect
)  # fmt: skip
