"""Looks at the host for ``ocid drift``: mounts, directories, cgroups and runtime state here, the rest beside it.

Nothing here changes anything. What vanishes while it is looked at was not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ocid.adapters import changes, mounts, process as processes, survey_network, survey_processes
from ocid.adapters.cgroups import Cgroups
from ocid.domain.changes import Layers, Walk
from ocid.domain.drift import CGROUP, DIRECTORY, LAYER, MOUNT, PRESENT, STATE, Asked, Sighting, Thing, Where, state_text
from ocid.domain.spec.cgroups import PREFIX, CgroupDriver, parent_path
from ocid.errors import EffectFailed, Unsupported

CGROUPS_MAX: Final = 100_000  # directories that are looked through
NAMED_MAX: Final = 8  # processes of a cgroup that are named
_RUNTIMES_OWN: Final = frozenset({".cache"})  # crun's, of compiled seccomp filters
_OVERMOUNTED: Final = " over "

Seen = Iterator[tuple[Thing, str]]


class HostSurvey:
    """Implements ``ocid.ports.survey.Survey``."""

    def look(self, asked: Asked) -> Sighting:
        """Return what is there.

        Raises:
            EffectFailed: the kernel or nft refused to tell.
            Unsupported: the daemon is in another mount namespace.
        """
        _refuse_elsewhere(asked.where.daemon_pid)
        cgroups = Cgroups(asked.where.cgroup_driver)
        found: dict[Thing, str] = {}
        try:
            for seen in (
                _mounts(asked.where),
                _directories(asked.where),
                _states(Path(asked.where.run)),
                _cgroups(asked, cgroups),
                survey_processes.look(asked.lives, cgroups),
                survey_network.links(asked),
                survey_network.insides(asked),
                survey_network.sysctls(asked.network),
            ):
                found.update(seen)
            return Sighting(found=found, rules=survey_network.rules(asked.network))
        except OSError as error:
            raise EffectFailed(f"looking at the host: {error.strerror} {error.filename or ''}".rstrip()) from error
        except ValueError as error:  # a path with NUL, which no daemon ever wrote
            raise EffectFailed(f"the log names something that cannot be on any host: {error}") from error

    def changes(self, layers: Layers, bytes_max: int) -> Walk:
        """Return what a container's writable layer holds, compared with the layers below it.

        Raises:
            NotFound: there is no such writable layer.
            EffectFailed: it cannot be read.
        """
        return changes.walk(layers, bytes_max)


def _refuse_elsewhere(daemon_pid: int) -> None:
    """Make sure that the daemon's mounts are seen here."""
    with suppress(OSError):
        words = Path(f"/proc/{daemon_pid}/cmdline").read_bytes().split(b"\0")
        theirs, ours = (os.stat(f"/proc/{one}/ns/mnt") for one in (daemon_pid, "self"))
        if b"serve" in words and (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            raise Unsupported(
                f"the daemon is in another mount namespace than this process: run 'nsenter -m -t {daemon_pid}' and this"
            )


def _mounts(where: Where) -> Seen:
    """Tell everything that is mounted below the daemon's directories; those themselves, and that of pods, may be."""
    found: dict[str, str] = {}
    places = {os.path.realpath(one): one for one in (where.root, where.run)}
    standing = {*places.values(), f"{where.run}/pods"}
    for entry in mounts.mountinfo():
        for real, named in places.items():
            if entry.target == real or entry.target.startswith(f"{real}/"):
                target = named + entry.target.removeprefix(real)
                text = _mount_text(entry)
                found[target] = f"{text}{_OVERMOUNTED}{found[target]}" if target in found else text
    for target, text in found.items():
        if target not in standing:
            yield Thing(MOUNT, target), text


def _mount_text(entry: mounts.Mounted) -> str:
    if entry.kind == "nsfs":
        return "namespace"
    if entry.kind == "overlay":
        options = dict(option.partition("=")[::2] for option in entry.super_options.split(","))
        upper = options.get("upperdir", "")
        return f"overlay that writes to {upper}" if upper else "overlay, read-only"
    return "tmpfs" if entry.kind == "tmpfs" else f"{entry.kind} from {entry.source}"


def _directories(where: Where) -> Seen:
    for place in (f"{where.run}/pods", f"{where.run}/containers", f"{where.root}/containers"):
        for name in _names(place):
            yield Thing(DIRECTORY, f"{place}/{name}"), PRESENT
    for name in _names(f"{where.root}/layers"):
        yield Thing(LAYER, name), PRESENT


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


# --- what OCI runtimes keep -------------------------------------------------------------------------------------------


class _RuncState(msgspec.Struct, frozen=True):
    init_process_pid: int


class _CrunState(msgspec.Struct, frozen=True):
    pid: int


def _states(run: Path) -> Seen:
    """Tell what each handler's state directory holds, of containers and of pause processes."""
    known: set[str] = set()
    for kept in ("runtime", "pause"):
        for handler in _names(f"{run}/{kept}"):
            for name in _names(f"{run}/{kept}/{handler}"):
                directory = run / kept / handler / name
                if name in _RUNTIMES_OWN or not directory.is_dir():
                    continue
                thing = Thing(STATE, f"{kept}/{handler}/{name}" if name in known else name)
                known.add(name)
                yield thing, _state(directory)


def _state(directory: Path) -> str:
    """Say which init a runtime remembers; of a runtime that nobody here can read, that it remembers one."""
    with suppress(OSError, msgspec.MsgspecError):
        return state_text(
            msgspec.json.decode((directory / "state.json").read_bytes(), type=_RuncState).init_process_pid
        )
    with suppress(OSError, msgspec.MsgspecError):
        return state_text(msgspec.json.decode((directory / "status").read_bytes(), type=_CrunState).pid)
    return "no readable state"


# --- cgroups ----------------------------------------------------------------------------------------------------------


def _cgroups(asked: Asked, cgroups: Cgroups) -> Seen:
    """Tell the cgroups below our own parent, and those with our prefix below pods' parents.

    A pod's parent is the kubelet's, which keeps other things in that tree.
    """
    own = parent_path(CgroupDriver(asked.where.cgroup_driver), asked.where.cgroup_parent)
    others = {f"/{top}" for top in (one.strip("/").partition("/")[0] for one in asked.parents) if top}
    named = frozenset(asked.cgroups)
    tops = [(top, True) for top in sorted(others)]
    if own.strip("/"):
        tops.append((own, False))
    budget = [CGROUPS_MAX]
    seen: set[str] = set()
    for root in dict.fromkeys(cgroups.hierarchies.values()):
        for top, only_ours in tops:
            for path in _below(root, top, named, budget):
                ours = path.rpartition("/")[2].startswith(f"{PREFIX}-")
                if path not in seen and (ours or not only_ours):
                    seen.add(path)
                    yield Thing(CGROUP, path), _population(cgroups, path)


def _below(root: str, top: str, named: frozenset[str], budget: list[int]) -> Iterator[str]:
    """Yield the directories at and below *top*, but nothing below a *named* one."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(root + path) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        budget[0] -= 1
        if budget[0] < 0:
            raise EffectFailed(f"more than {CGROUPS_MAX} cgroups below {top!r}: too many to look at")
        yield path
        if path not in named:
            waiting += [f"{path}/{name}" for name in below]


def _population(cgroups: Cgroups, path: str) -> str:
    pids = sorted(cgroups.processes(path))
    if not pids:
        return "empty"
    told = ", ".join(f"{pid} {processes.name_of(pid) or ''}".rstrip() for pid in pids[:NAMED_MAX])
    more = ", …" if len(pids) > NAMED_MAX else ""
    return f"{len(pids)} process{'es' if len(pids) > 1 else ''}: {told}{more}"
