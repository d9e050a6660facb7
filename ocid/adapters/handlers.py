"""The configured OCI runtimes: how each is called, what it can do, and how runc and crun lay out their state."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ocid.adapters import mounts, process as processes
from ocid.adapters.command import Finished, find_tool, run
from ocid.adapters.conmon import runtime_environment, runtime_error
from ocid.errors import EffectFailed, NotFound, tail
from ocid.ports import HandlerFeatures, Process

TOOL_S: Final = 60.0  # for delete, start and state; they answer in milliseconds unless the kernel hangs
_QUESTION_S: Final = 10.0
_KNOWN_KINDS: Final = ("runc", "crun")


class HandlerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One handler of the configuration file."""

    path: str  # executable, absolute or a name on the search path
    arguments: tuple[str, ...] = ()  # global ones, before the command


class InitState(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime's state directory says of a container's init."""

    process: Process | None  # None: not known, as in a directory that is only half written
    status: str = ""  # of the OCI "state" command, where that was asked


class _RuncState(msgspec.Struct):
    """The part of runc's state.json that we read. libcontainer BaseState."""

    init_process_pid: int = 0
    init_process_start: int = 0


class _CrunState(msgspec.Struct, rename={"start": "process-start-time"}):
    """The part of crun's status file that we read. libcrun status.c."""

    pid: int = 0
    start: int = 0


class Handler:
    """One OCI runtime.

    Args:
        root: where it keeps its state: ours alone, so that no other tool's containers are there.
    """

    def __init__(self, name: str, path: str, kind: str, arguments: tuple[str, ...], root: Path) -> None:
        self.name = name
        self.path = path
        self.kind = kind  # "runc", "crun" or "other"
        self.root = root
        self.features = HandlerFeatures(path=path, version="")
        self._arguments = arguments

    @classmethod
    async def find(cls, name: str, config: HandlerConfig, root: Path) -> Handler:
        """Find the executable, ask for its version and features, and make its state directory.

        Raises:
            EffectFailed: it is not installed or does not answer.
        """
        path = config.path if config.path.startswith("/") else find_tool(config.path)
        said = await run([path, "--version"], doing=f"version of handler {name!r}", timeout_s=_QUESTION_S)
        words = said.stdout.decode("utf-8", "replace").split()
        kind = words[0] if words and words[0] in _KNOWN_KINDS else "other"
        handler = cls(name, path, kind, config.arguments, root / name)
        version = words[2] if len(words) > 2 and words[1] == "version" else " ".join(words[:3])
        features = await run([path, "features"], doing="features", timeout_s=_QUESTION_S, check=False)
        handler.features = _features(path, version, features)
        return handler.rooted(root)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that it is run with."""
        return runtime_environment(self.root.parent)

    def rooted(self, directory: Path) -> Handler:
        """Return the same runtime with its state kept below *directory* instead."""
        other = Handler(self.name, self.path, self.kind, self._arguments, directory / self.name)
        other.features = self.features
        other.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return other

    def words(self, log: Path) -> list[str]:
        """Return the runtime's path and global arguments; its errors go to *log* as JSON."""
        return [self.path, f"--root={self.root}", f"--log={log}", "--log-format=json", *self._arguments]

    async def call(self, doing: str, log: Path, *command: str, capture: bool = True) -> Finished:
        """Run one of the runtime's commands; without *capture* its output goes nowhere.

        Raises:
            EffectFailed: it failed; the cause is from its JSON log.
            Unavailable: it did not end in time.
        """
        _unlink(log)
        words = [*self.words(log), *command]
        done = await run(
            words, doing=doing, timeout_s=TOOL_S, environment=self.environment, check=False, capture=capture
        )
        if done.exit_code != 0:
            raise EffectFailed(f"{doing}: {tail(runtime_error(log) or done.stderr or done.stdout)}")
        return done

    def state_directory(self, container_id: str) -> Path:
        """Name the directory that this runtime keeps for a container."""
        return self.root / container_id

    def remove_state(self, container_id: str) -> None:
        """Remove what the runtime keeps for a container whose processes and cgroups are gone."""
        directory = self.state_directory(container_id)
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():  # a runtime that was killed leaves its binary mounted here
            mounts.unmount_below(str(directory))
            shutil.rmtree(directory, ignore_errors=True)

    def exec_fifo(self, container_id: str) -> Path | None:
        """Name the FIFO that init waits at until it is started; None where the runtime has none."""
        return self.state_directory(container_id) / "exec.fifo" if self.kind in _KNOWN_KINDS else None

    async def init(self, container_id: str, log: Path) -> InitState | None:
        """Return what the runtime knows of a container's init, None when it knows no such container."""
        directory = self.state_directory(container_id)
        if self.kind == "other":
            return await self._ask(container_id, log)
        if not directory.is_dir():
            return None
        try:
            if self.kind == "runc":
                runc = msgspec.json.decode((directory / "state.json").read_bytes(), type=_RuncState)
                pid, ticks = runc.init_process_pid, runc.init_process_start
            else:
                crun = msgspec.json.decode((directory / "status").read_bytes(), type=_CrunState)
                pid, ticks = crun.pid, crun.start
        except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
            return InitState(process=None)
        return InitState(process=Process(pid=pid, start_ticks=ticks) if pid > 0 else None)

    async def _ask(self, container_id: str, log: Path) -> InitState | None:
        try:
            done = await self.call("state", log, "state", container_id)
            said: dict[str, Any] = msgspec.json.decode(done.stdout, type=dict[str, Any])
        except (EffectFailed, msgspec.DecodeError, msgspec.ValidationError):
            return None
        status = str(said.get("status", ""))
        try:
            return InitState(process=processes.identify(int(said.get("pid", 0))), status=status)
        except NotFound:
            return InitState(process=None, status=status)

    def container_ids(self) -> set[str]:
        """List the containers that the runtime's state directory holds."""
        try:
            with os.scandir(self.root) as entries:
                return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except FileNotFoundError:
            return set()


def _features(path: str, version: str, said: Finished) -> HandlerFeatures:
    """Read ``<runtime> features``; a runtime without the command has none. OCI runtime-spec features.md."""
    document: Any = {}
    if said.exit_code == 0:
        with suppress(msgspec.DecodeError):
            document = msgspec.json.decode(said.stdout)
    extensions = _below(_below(document, "linux"), "mountExtensions")
    options = document.get("mountOptions") if isinstance(document, Mapping) else None
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    lacks = _lacks_for_users(f"{path} {version}", _below(extensions, "idmap").get("enabled") is True, release)
    oci = _version(document.get("ociVersionMax") if isinstance(document, Mapping) else None)
    runc = _version(_below(document, "annotations").get("org.opencontainers.runc.version"))
    if runc and runc < (1, 2):
        oci = min(oci, (1, 0))  # the last 1.1 say that they know 1.1, and pass over its scheduler and I/O priority
    return HandlerFeatures(
        path=path,
        version=version,
        recursive_read_only_mounts="rro" in (options or ()) and release >= (5, 12),
        user_namespaces=not lacks,
        lacks_for_users=lacks,
        oci=oci,
    )


def _version(said: object) -> tuple[int, ...]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.", said) if isinstance(said, str) else None
    return () if found is None else (int(found[1]), int(found[2]))


def _lacks_for_users(runtime: str, maps_ids: bool, release: tuple[int, ...]) -> str:
    """Say what keeps this handler from having user namespaces; "" when nothing does."""
    if release < (5, 19):
        return f"kernel {os.uname().release} has no id-mapped layers of overlayfs: wanted 5.19"
    if not os.path.exists("/proc/self/ns/user"):
        return "this kernel has no user namespaces"
    with suppress(OSError), open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file:
        if int(file.read()) == 0:
            return "user.max_user_namespaces is 0: wanted one for each pod at least"
    if not maps_ids:
        return f"{runtime} has no linux.mountExtensions.idmap among its features: wanted runc 1.2 or later"
    return ""


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _below(document: Any, key: str) -> Mapping[str, Any]:
    inner = document.get(key) if isinstance(document, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}
