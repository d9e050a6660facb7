"""Looks at the processes that the log names: who they are, where they are kept, and who else is among them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ocid.adapters import process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.domain.drift import (
    FREEZER,
    INTRUDER,
    ITS_OWN,
    MEMBERSHIP,
    MONITOR,
    NAMESPACE,
    PROCESS,
    THE_HOSTS,
    Life,
    Thing,
    namespace_text,
    process_text,
)
from ocid.ports import Process

Seen = Iterator[tuple[Thing, str]]
_FROZEN_V1: Final = ("FROZEN", "FREEZING")


def look(lives: Sequence[Life], cgroups: Cgroups) -> Seen:
    """Tell what there is to say of each process that the log names."""
    for life in lives:
        thing = Thing(PROCESS, life.stream)
        ticks = None if processes.is_zombie(life.pid) else processes.start_ticks(life.pid)
        if ticks == life.start_ticks:
            yield thing, process_text(life.pid, ticks)
            yield from _where(life, cgroups)
        elif ticks is not None:
            yield thing, f"pid {life.pid} is another process now, started at tick {ticks}: {_name(life.pid)}"
    yield from _intruders(lives, cgroups)


def _name(pid: int) -> str:
    return processes.name_of(pid) or "?"


def _where(life: Life, cgroups: Cgroups) -> Seen:
    with suppress(FileNotFoundError, ProcessLookupError):
        yield Thing(MEMBERSHIP, life.stream), _membership(life, cgroups)
    if _is_frozen(life, cgroups):
        yield Thing(FREEZER, life.stream), "frozen"
    for kind, wanted in life.namespaces.items():
        with suppress(FileNotFoundError, ProcessLookupError):
            yield Thing(NAMESPACE, f"{life.stream} {kind}"), _namespace(life.pid, kind, wanted)
    if life.bundle:
        with suppress(OSError, msgspec.MsgspecError):
            monitor = msgspec.json.decode(Path(life.bundle, "monitor.json").read_bytes(), type=Process)
            if processes.alive(monitor):
                yield Thing(MONITOR, life.stream), process_text(monitor.pid, monitor.start_ticks)


def _membership(life: Life, cgroups: Cgroups) -> str:
    """Return the cgroup that the process is in; where hierarchies differ, the first one that is another than wanted.

    A program may have put itself further down, as an init system in a container does. Where a hierarchy lacks the
    wanted cgroup, the OCI runtime never used that one.
    """
    known = False
    with open(f"/proc/{life.pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    path = ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        name = controllers.partition(",")[0].removeprefix("name=")
        root = cgroups.hierarchies.get(name)
        if root is None or not os.path.isdir(root + life.cgroup):
            continue
        known = True
        if path != life.cgroup and not path.startswith(f"{life.cgroup}/"):
            return f"{path} of the {name or 'unified'} hierarchy"
    return life.cgroup if known else f"{path or '/'}: its own is gone"


def _is_frozen(life: Life, cgroups: Cgroups) -> bool:
    """Say whether the container is frozen, by its own cgroup or one below it that its init is in.

    Under systemd, crun gives a container a cgroup below its scope, and freezes that.
    """
    root = cgroups.hierarchies.get("" if cgroups.version == 2 else "freezer")
    with suppress(OSError):
        if root is not None and cgroups.version == 1:
            return Path(root + life.cgroup, "freezer.state").read_text().strip() in _FROZEN_V1
        if root is not None:
            lines = Path(f"/proc/{life.pid}/cgroup").read_text("utf-8", "surrogateescape").splitlines()
            inner = next((line[3:] for line in lines if line.startswith("0::")), "")
            below = inner.removeprefix(life.cgroup).split("/")[1:] if inner.startswith(f"{life.cgroup}/") else []
            places = [Path(root + life.cgroup, *below[:depth]) for depth in range(len(below) + 1)]
            return any("frozen 1" in (place / "cgroup.events").read_text().splitlines() for place in places)
    return False


def _namespace(pid: int, kind: str, wanted: str) -> str:
    """Say which namespace a process is in, in the words of what is wanted where it is that one."""
    own, host = _identity(f"/proc/{pid}/ns/{kind}"), _identity(f"/proc/self/ns/{kind}")
    if own == host:
        return THE_HOSTS
    if wanted in (THE_HOSTS, ITS_OWN):
        return ITS_OWN
    with suppress(FileNotFoundError):
        return namespace_text(wanted) if own == _identity(wanted) else f"another one, {kind}:[{own[1]}]"
    return namespace_text(wanted)  # what names it is gone: that is another difference, or another container's end


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


# --- who else is there ------------------------------------------------------------------------------------------------


def _intruders(lives: Sequence[Life], cgroups: Cgroups) -> Seen:
    """Tell processes among a container's that none of them began, and that nobody had leave to put there.

    Within a PID namespace whoever loses its parent gets the namespace's init for one. So one whose parent is outside
    came in from there: by the OCI runtime's exec, or by nsenter.
    """
    inits = {life.pid for life in lives}
    closed = [life for life in lives if life.closed and life.namespaces.get("pid", THE_HOSTS) != THE_HOSTS]
    members = {life.stream: cgroups.processes(life.cgroup) for life in closed}
    for life in closed:
        for pid in members[life.stream] - {life.pid}:
            parent = processes.parent_of(pid)
            if parent is not None and parent not in members[life.stream] | inits and not processes.is_zombie(pid):
                yield _intruder(life, pid), f"{_name(pid)}, begun by pid {parent} ({_name(parent)}) from outside"
    yield from _visitors(closed, members)


def _visitors(closed: Sequence[Life], members: Mapping[str, Collection[int]]) -> Seen:
    """Tell processes in a container's mount namespace that are in another cgroup."""
    homes: dict[tuple[int, int], Life] = {}
    for life in closed:
        with suppress(OSError):
            homes[_identity(f"/proc/{life.pid}/ns/mnt")] = life
    homes.pop(_identity("/proc/self/ns/mnt"), None)
    for name in os.listdir("/proc") if homes else ():
        if not name.isdigit():
            continue
        with suppress(OSError):
            home = homes.get(_identity(f"/proc/{name}/ns/mnt"))
            pid = int(name)
            if home is not None and pid != home.pid and pid not in members[home.stream]:
                yield _intruder(home, pid), f"{_name(pid)}, in its mount namespace, but not in its cgroup"


def _intruder(life: Life, pid: int) -> Thing:
    return Thing(INTRUDER, f"{life.stream} pid {pid}")
