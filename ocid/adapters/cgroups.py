"""Control groups of this host, v1, hybrid or v2: where a container's are, who is in them, killing, counting, removing.

Source: kernel cgroup-v1 and cgroup-v2.rst; OCI config-linux.md "Control groups".
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters import command, mounts
from ocid.domain.spec.cgroups import CgroupDriver, parent_path, slice_path
from ocid.errors import EffectFailed, Unavailable

REMOVE_S: Final = 2.0  # how long a directory may stay busy after its last process ended
STOP_S: Final = 10.0  # for systemd to stop an empty slice
_KILL_ROUNDS: Final = 64  # a fork bomb in a v1 cgroup is outrun in far fewer
_KERNEL_ROOT: Final = "/sys/fs/cgroup"
_SYSTEMD_RUNS: Final = "/run/systemd/system"
# Where a container's processes are looked for under v1: the first hierarchy of these that is mounted.
_MOUNT_FLAGS: Final = frozenset({"rw", "ro", "xattr", "noprefix", "clone_children", "all", "none", "seclabel"})
_LISTED_V1: Final = ("pids", "memory", "systemd", "devices")


class Cgroups:
    """The host's cgroup hierarchies.

    Args:
        driver: "systemd", "cgroupfs", or "auto": systemd where it runs and the hierarchy is v2.
    """

    def __init__(self, driver: str = "auto") -> None:
        self.hierarchies: dict[str, str] = {}  # "" is the v2 hierarchy; else controller or "systemd" → mount point
        v2_at_root = False
        for entry in mounts.mountinfo():
            if entry.kind == "cgroup2":
                self.hierarchies.setdefault("", entry.target)
                v2_at_root = v2_at_root or entry.target == _KERNEL_ROOT
            elif entry.kind == "cgroup":
                for name in entry.super_options.split(","):
                    if name not in _MOUNT_FLAGS and not name.startswith(("release_agent=", "cpuset_")):
                        self.hierarchies.setdefault(name.removeprefix("name="), entry.target)
        controllers_v1 = set(self.hierarchies) - {"", "systemd"}
        self.version = 2 if v2_at_root or not controllers_v1 else 1
        if self.version == 2:
            self.hierarchies = {"": _KERNEL_ROOT if v2_at_root else self.hierarchies.get("", _KERNEL_ROOT)}
        has_systemd = self.version == 2 and os.path.isdir(_SYSTEMD_RUNS)
        auto = CgroupDriver.SYSTEMD if has_systemd else CgroupDriver.CGROUPFS
        self.driver = auto if driver == "auto" else CgroupDriver(driver)

    def controllers(self) -> tuple[str, ...]:
        """Return the names of the controllers that can limit containers; v1's "blkio" is called "io"."""
        if self.version == 2:
            text = _read(os.path.join(self.hierarchies[""], "cgroup.controllers")) or ""
            return tuple(sorted(text.split()))
        names = set(self.hierarchies) - {"", "systemd"}
        return tuple(sorted({"io" if name == "blkio" else name for name in names}))

    def swap_accounting(self) -> bool:
        """Say whether memory and swap together can be limited."""
        if self.version == 1:
            memory = self.hierarchies.get("memory")
            return memory is not None and os.path.exists(os.path.join(memory, "memory.memsw.limit_in_bytes"))
        for entry in _children(self.hierarchies[""]):  # the root itself has no limits
            if os.path.exists(os.path.join(entry, "memory.max")):
                return os.path.exists(os.path.join(entry, "memory.swap.max"))
        return os.path.exists("/proc/swaps")

    def directories(self, cgroups_path: str) -> list[str]:
        """Return the directories of an OCI ``linux.cgroupsPath`` in all hierarchies, existing or not."""
        inner = self.inner(cgroups_path)
        return [os.path.join(root, inner) for root in dict.fromkeys(self.hierarchies.values())]

    def inner(self, cgroups_path: str) -> str:
        """Return the path relative to a hierarchy's root; never the root itself, which no container may have."""
        if ":" in cgroups_path and not cgroups_path.startswith("/"):
            unit, prefix, name = cgroups_path.split(":", 2)
            inner = f"{slice_path(unit)}/{prefix}-{name}.scope"
        else:
            inner = cgroups_path
        parts = [part for part in inner.split("/") if part]
        assert parts, f"cgroup path {cgroups_path!r} would be the root of the host"
        assert ".." not in parts, f"cgroup path {cgroups_path!r} climbs"
        return "/".join(parts)

    def _listed(self, cgroups_path: str) -> str | None:
        """Return the directory of the hierarchy in which processes are looked for, None when it does not exist."""
        inner = self.inner(cgroups_path)
        names = ("",) if self.version == 2 else (*_LISTED_V1, *self.hierarchies)
        for name in names:
            root = self.hierarchies.get(name)
            if root is not None and os.path.isdir(os.path.join(root, inner)):
                return os.path.join(root, inner)
        return None

    def processes(self, cgroups_path: str) -> set[int]:
        """Return the pids in the cgroup and all below it."""
        top = self._listed(cgroups_path)
        if top is None:
            return set()
        pids: set[int] = set()
        for directory in _tree(top):
            text = _read(os.path.join(directory, "cgroup.procs"))
            pids.update(int(word) for word in (text or "").split() if word != "0")  # 0: outside our PID namespace
        return pids

    def send(self, cgroups_path: str, number: int) -> None:
        """Send a signal to every process of the cgroup; SIGKILL to those born meanwhile too."""
        if number == signal.SIGKILL:
            self.kill(cgroups_path)
            return
        self._send(cgroups_path, self.processes(cgroups_path), number)

    def kill(self, cgroups_path: str) -> None:
        """Kill every process of the cgroup and below; a frozen one is thawed for it. Nothing there is success."""
        if self.version == 2:
            with suppress(OSError):
                _write(os.path.join(self.directories(cgroups_path)[0], "cgroup.kill"), "1")
                return
        killed: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            fresh = self.processes(cgroups_path) - killed
            if not fresh:
                break
            self._send(cgroups_path, fresh, signal.SIGKILL)
            killed |= fresh
        if self.version == 1 and killed:
            self.thaw(cgroups_path)

    def thaw(self, cgroups_path: str) -> None:
        """Let the processes of a frozen cgroup go on. Not frozen, or not there, is success.

        Likewise those of the cgroups right below it: under systemd, crun freezes such a one.
        """
        root = self.hierarchies.get("" if self.version == 2 else "freezer")
        if root is not None:
            name, text = ("cgroup.freeze", "0") if self.version == 2 else ("freezer.state", "THAWED")
            top = os.path.join(root, self.inner(cgroups_path))
            for directory in (top, *(_children(top) if self.version == 2 else ())):
                with suppress(OSError):
                    _write(os.path.join(directory, name), text)

    def _send(self, cgroups_path: str, pids: Iterable[int], number: int) -> None:
        """Signal these pids as far as they are still in the cgroup once a pidfd holds them."""
        held: dict[int, int] = {}
        for pid in pids:
            with suppress(ProcessLookupError, OSError):
                held[pid] = os.pidfd_open(pid)
        still = self.processes(cgroups_path)
        for pid, pidfd in held.items():
            if pid in still:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, number)
            os.close(pidfd)

    def oom_kills(self, cgroups_path: str) -> int | None:
        """Return how many of the cgroup's processes the OOM killer took since it was made; None when unknown."""
        root = self.hierarchies.get("" if self.version == 2 else "memory")
        return None if root is None else self._oom_kills_in(os.path.join(root, self.inner(cgroups_path)))

    def oom_kills_of_removed(self, cgroups_path: str) -> tuple[str, int]:
        """Return the cgroup above, and how many kills it counted that none of its present children has.

        Version 1 does not count upwards: there it is always 0.
        """
        above = os.path.dirname(self.directories(cgroups_path)[0])
        total = self._oom_kills_in(above) if self.version == 2 else None
        return above, total - sum(self._oom_kills_in(one) or 0 for one in _children(above)) if total else 0

    def _oom_kills_in(self, directory: str) -> int | None:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        for line in (_read(os.path.join(directory, name)) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return None

    async def remove(self, cgroups_path: str, timeout_s: float = REMOVE_S) -> None:
        """Remove the cgroup and all below it from every hierarchy. Nothing there is success.

        Raises:
            Unavailable: it stayed busy; a process in it does not end.
        """
        await self.remove_directories(self.directories(cgroups_path), timeout_s)

    async def remove_directories(self, directories: Sequence[str], timeout_s: float = REMOVE_S) -> None:
        """Remove these cgroup directories with all below them, retrying while the kernel still empties them."""
        pause_s = 0.0005
        until = trio.current_time() + timeout_s
        left = list(directories)
        while True:
            left = [directory for directory in left if not _remove_tree(directory)]
            if not left:
                return
            if trio.current_time() > until:
                raise Unavailable(f"cgroup {left[0]!r} is busy after {timeout_s:g} s: a process in it does not end")
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    def ensure_parent(self, parent: str, made: Path) -> None:
        """Make a pod's parent cgroup in all hierarchies where it is missing; *made* lists what is made, beforehand.

        Under systemd the slices that are missing are only listed: the OCI runtime has systemd make them.

        Raises:
            EffectFailed: the kernel refused.
        """
        if not parent.strip("/"):
            return
        inner = parent_path(self.driver, parent).strip("/")
        missing = [
            os.path.join(root, ancestor)
            for root in dict.fromkeys(self.hierarchies.values())
            for ancestor in _ancestors(inner)
            if not os.path.isdir(os.path.join(root, ancestor))
        ]
        if not missing:
            return
        _add_to_list(made, missing)
        if self.driver is CgroupDriver.SYSTEMD:
            return
        try:
            self._make_all(missing)
        except OSError as error:
            raise EffectFailed(f"cgroup parent {parent!r}: {error.strerror} at {error.filename!r}") from error

    def _make_all(self, directories: Sequence[str]) -> None:
        """Make them; one above that another pod's end removed meanwhile is made again."""
        for directory in directories:
            cpuset = directory.startswith(self.hierarchies.get("cpuset", "\0"))
            try:
                _make(directory, cpuset=cpuset)
            except FileNotFoundError:
                os.makedirs(directory, 0o755, exist_ok=True)
                _make(directory, cpuset=cpuset)
            if self.version == 2:
                _delegate(os.path.dirname(directory))

    async def stop_made(self, made: Path) -> None:
        """Stop the slices that *made* lists, as far as they are empty. Nobody else does: they would stay for ever."""
        if self.driver is not CgroupDriver.SYSTEMD:
            return
        for directory in reversed(_listed_in(made)):
            if not any(_children(directory)):
                unit = os.path.basename(directory)
                with suppress(EffectFailed, Unavailable):  # an empty slice is no reason to keep a pod
                    await command.run(["systemctl", "stop", unit], doing=f"stop of {unit}", timeout_s=STOP_S)

    def remove_made(self, made: Path) -> None:
        """Remove the parent cgroups that *made* lists, as far as they are empty: another pod may use them too."""
        for directory in reversed(_listed_in(made)):
            with suppress(OSError):
                os.rmdir(directory)


def _listed_in(made: Path) -> list[str]:
    """Return the directories in the list *made* that are there; of one that was never written whole, none is."""
    return [directory for directory in _read_list(made) if os.path.isdir(directory)]


def _read_list(made: Path) -> list[str]:
    try:
        return [str(directory) for directory in json.loads(made.read_text())]
    except (FileNotFoundError, ValueError):
        return []


def _add_to_list(made: Path, directories: Sequence[str]) -> None:
    """Write the list anew before anything on it is made; a death in the middle leaves the old one."""
    new = made.with_name(f"{made.name}.new")
    new.write_text(json.dumps([*_read_list(made), *directories]))
    new.replace(made)


def _ancestors(inner: str) -> Iterator[str]:
    parts = inner.split("/")
    for depth in range(len(parts)):
        yield "/".join(parts[: depth + 1])


def _make(directory: str, *, cpuset: bool) -> None:
    with suppress(FileExistsError):
        os.mkdir(directory, 0o755)
    if cpuset:  # a v1 cpuset is born empty, and nothing can be put in it then
        for name in ("cpuset.cpus", "cpuset.mems"):
            above = _read(os.path.join(os.path.dirname(directory), name))
            here = _read(os.path.join(directory, name))
            if above is not None and here is not None and not here.strip():
                _write(os.path.join(directory, name), above.strip())


def _delegate(directory: str) -> None:
    """Give the children of a v2 cgroup all controllers that it has; one that refuses is skipped, as runc does."""
    for controller in (_read(os.path.join(directory, "cgroup.controllers")) or "").split():
        with suppress(OSError):
            _write(os.path.join(directory, "cgroup.subtree_control"), f"+{controller}")


def _children(directory: str) -> Iterator[str]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path


def _tree(directory: str) -> Iterator[str]:
    yield directory
    for child in _children(directory):
        yield from _tree(child)


def _remove_tree(directory: str) -> bool:
    """Remove a cgroup and those below it; say whether it is gone. One rmdir when it has none below."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise EffectFailed(f"cgroup {directory!r}: {error.strerror}") from error
        for child in list(_children(directory)):
            _remove_tree(child)
        with suppress(OSError):
            os.rmdir(directory)
        return not os.path.isdir(directory)
    return True


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
