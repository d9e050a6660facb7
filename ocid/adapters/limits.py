"""Changing the limits of a living container through its OCI runtime, all of them or none.

Neither runc nor crun undoes what it wrote before the kernel refused the next value, nor what was not set before. So
the files of the container's cgroups are read beforehand, kept beside the bundle until the outcome is certain, and
written back when there was a refusal, also after a death of the daemon in between.

Source: OCI runtime command line "update"; kernel cgroup-v1/{cpusets,memory,hugetlb}.rst, cgroup-v2.rst; proc(5).
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ocid.adapters import process as processes
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.handlers import Handler
from ocid.errors import EffectFailed, InvalidRequest, OcidError, WrongState
from ocid.ports import ContainerOrder, LimitsOrder

_BEFORE, _GIVEN = "limits.before", "limits.json"
UPDATE_FILES: Final = (
    _BEFORE,
    f"{_BEFORE}.new",
    _GIVEN,
    f"{_GIVEN}.new",
    "config.json.new",
    "update.log",
)

_NO_VALUE: Final = tuple(os.strerror(code).lower() for code in (errno.EINVAL, errno.ERANGE))
_PASSES: Final = 3  # a limit may have to wait for another one to be written back: memory with swap, quota with period
_LIMIT_FILES: Final = (
    *("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    *("cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "cpuset.cpus", "cpuset.mems"),
    *("memory.soft_limit_in_bytes", "memory.low", "pids.max", "cpu.rt_period_us", "cpu.rt_runtime_us"),
)
_HUGEPAGE_FILES: Final = ("hugetlb.*.limit_in_bytes", "hugetlb.*.max")


class _Before(msgspec.Struct, frozen=True, kw_only=True):
    """How everything was before a change."""

    update_id: str
    files: dict[str, str]  # path below the cgroup file systems → content
    oom_score_adj: int  # of init
    spec_resources: dict[str, Any]  # of the bundle
    spec_oom_score_adj: int | None


class LimitUpdates:
    """Updates of containers that live in *cgroups*."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    async def run(self, handler: Handler, order: ContainerOrder, limits: LimitsOrder) -> None:
        """Put *limits* into force, or leave everything as it was.

        Raises:
            WrongState: the container has no init any more, or uses more memory than it is to have.
            InvalidRequest: the kernel says that a value cannot be, or not with the others.
            EffectFailed: the kernel or the runtime refused for another reason.
            Unavailable: the runtime did not answer in time.
        """
        bundle = Path(order.bundle)
        state = await handler.init(order.container_id, bundle / "update.log")
        if state is None or state.process is None or not processes.alive(state.process):
            raise WrongState("container", order.container_id, wants="created or running", is_now="gone")
        before = self._before(order, limits, state.process.pid)
        try:
            if self._cgroups.version == 2 and (used := self._overuse(order, limits)) is not None:
                raise used  # the kernel would make room by killing
            self._set_oom_score(order, before.oom_score_adj, limits.oom_score_adj)
            resources = {**before.spec_resources, **limits.resources}
            _write_spec(bundle, resources, limits.oom_score_adj)
            _write(bundle / _GIVEN, msgspec.json.encode(self._given(handler, order, resources)))
            what = f"change of limits of container {order.container_id!r}"
            file = str(bundle / _GIVEN)
            await handler.call(what, bundle / "update.log", "update", "--resources", file, order.container_id)
        except (OcidError, trio.Cancelled) as error:
            used = self._overuse(order, limits) if isinstance(error, EffectFailed) else None
            left = self._restore(order, before, limits)
            if left and isinstance(error, OcidError):
                raise EffectFailed(f"{error.message}; and the kernel refused to have back {', '.join(left)}") from error
            if used is not None and "memory" in str(error):  # the runtime's words name the file
                raise used from error
            if isinstance(error, EffectFailed) and any(words in error.message.lower() for words in _NO_VALUE):
                raise InvalidRequest(error.message) from error
            raise
        finally:
            _remove(bundle)  # but not how it was before: the outcome is not in the log yet

    def _given(self, handler: Handler, order: ContainerOrder, resources: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the runtime is told. crun is not told "no quota": under version 1 it writes a huge number."""
        given = {name: part for name, part in resources.items() if name != "devices"}
        cpu = given.get("cpu", {})
        if handler.kind == "crun" and self._cgroups.version == 1 and cpu.get("quota", 0) < 0:
            self._lift_quota(order)
            given["cpu"] = {name: value for name, value in cpu.items() if name != "quota"}
        return given

    def _lift_quota(self, order: ContainerOrder) -> None:
        for directory in self._cgroups.directories(order.cgroup):
            try:
                _write_in(None, os.path.join(directory, "cpu.cfs_quota_us"), "-1")
            except FileNotFoundError:
                continue  # another controller's
            except OSError as error:
                raise EffectFailed(f"cpu.cfs_quota_us -1: {error.strerror}") from error

    # --- before ------------------------------------------------------------------------------------------------------

    def _before(self, order: ContainerOrder, limits: LimitsOrder, init: int) -> _Before:
        """Write down how it is, or read how it was before a try that the daemon's death cut short."""
        bundle = Path(order.bundle)
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            known = msgspec.json.decode((bundle / _BEFORE).read_bytes(), type=_Before)
            if known.update_id == limits.update_id:
                return known
        spec = _read_spec(bundle)
        before = _Before(
            update_id=limits.update_id,
            files={path: text for path in self._files(order, limits) if (text := _read(path)) is not None},
            oom_score_adj=_oom_score(init) or 0,
            spec_resources=spec["linux"].get("resources", {}),
            spec_oom_score_adj=spec["process"].get("oomScoreAdj"),
        )
        _write(bundle / _BEFORE, msgspec.json.encode(before))
        return before

    def _files(self, order: ContainerOrder, limits: LimitsOrder) -> list[str]:
        names = (*_LIMIT_FILES, *limits.resources.get("unified", {}))
        directories = list(dict.fromkeys(map(os.path.realpath, self._cgroups.directories(order.cgroup))))
        plain = [os.path.join(directory, name) for directory in directories for name in names]
        huge = [
            path
            for directory in directories
            for pattern in _HUGEPAGE_FILES
            for path in glob.glob(os.path.join(glob.escape(directory), pattern))
            if ".rsvd." not in path
        ]
        return plain + huge

    def _overuse(self, order: ContainerOrder, limits: LimitsOrder) -> WrongState | None:
        """Return what is wrong when the container uses more memory now than its limit is to be; None when nothing is.

        Version 2 would make room by killing; version 1 refuses such a limit by itself, after it has tried to reclaim.
        """
        wanted = limits.resources.get("memory", {}).get("limit", -1)
        name = "memory.current" if self._cgroups.version == 2 else "memory.usage_in_bytes"
        found = (_read(os.path.join(one, name)) for one in self._cgroups.directories(order.cgroup))
        used = next((int(text) for text in found if text is not None), 0)
        if not 0 <= wanted < used:
            return None
        wants = f"{wanted} at most, the limit that it is to have: let it use less first, or restart it"
        return WrongState("memory of container", order.container_id, wants=wants, is_now=f"{used} bytes")

    # --- writing and writing back ------------------------------------------------------------------------------------

    def _set_oom_score(self, order: ContainerOrder, old: int, new: int | None) -> None:
        """Change the score of all processes that have not chosen another one themselves."""
        if new is None or new == old:
            return
        for pid in self._cgroups.processes(order.cgroup):
            try:
                directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _oom_score(pid) == old and pid in self._cgroups.processes(order.cgroup):
                    _write_in(directory, "oom_score_adj", str(new))
            except ProcessLookupError:
                continue  # ended meanwhile
            except OSError as error:
                raise EffectFailed(f"oom_score_adj {new} for process {pid}: {error.strerror}") from error
            finally:
                os.close(directory)

    def _restore(self, order: ContainerOrder, before: _Before, limits: LimitsOrder) -> list[str]:
        """Write everything back; return what the kernel refused."""
        for _ in range(_PASSES):
            changed = [path for path, text in before.files.items() if _read(path) not in (text, None)]
            for path in changed:
                with suppress(OSError):
                    _write_in(None, path, before.files[path])
        refused = [path for path in changed if _read(path) != before.files[path]]
        try:
            if limits.oom_score_adj is not None:
                self._set_oom_score(order, limits.oom_score_adj, before.oom_score_adj)
            _write_spec(Path(order.bundle), before.spec_resources, before.spec_oom_score_adj)
        except EffectFailed as error:
            refused.append(error.message)
        return refused


def _write_spec(bundle: Path, resources: Mapping[str, Any], oom_score_adj: int | None) -> None:
    """Put limits into the bundle's specification; a later exec takes its score from there."""
    spec = _read_spec(bundle)
    spec["linux"]["resources"] = dict(resources)
    if oom_score_adj is not None:
        spec["process"]["oomScoreAdj"] = oom_score_adj
    _write(bundle / "config.json", msgspec.json.encode(spec))


def _read_spec(bundle: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((bundle / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise EffectFailed(f"specification in {str(bundle)!r}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    """Replace a file of the bundle as a whole, mode 0600."""
    new = path.with_name(f"{path.name}.new")
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError as error:
        raise EffectFailed(f"file {str(path)!r}: {error.strerror}") from error


def _remove(bundle: Path) -> None:
    for name in UPDATE_FILES[1:]:
        with suppress(FileNotFoundError):
            (bundle / name).unlink()


def _oom_score(pid: int) -> int | None:
    text = _read(f"/proc/{pid}/oom_score_adj")
    return None if text is None else int(text)


def _read(path: str) -> str | None:
    """Return what a file of the kernel says, None when it is not there or cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _write_in(directory: int | None, path: str, text: str) -> None:
    """Write a file of the kernel in one go, for its error to be that of this text."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
