"""Runs CNI plugins: ADD in order, DEL in reverse, each within its time limit, and remembers what must be undone.

Before the first plugin of an ADD runs, a file ``<state>/<pod id>.json`` names the configuration and arguments used;
when the ADD is through, the file also holds the result and is on the disk. So DEL gets what ADD got, even when the
configuration has changed, the daemon has died in the middle, or the machine was rebooted and the namespace is gone.

Source: CNI specification 1.1.0, sections 2 to 4.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from ocid.adapters.command import Child, spawn, tool_environment
from ocid.adapters.links import index_of, inside, loopback_up
from ocid.domain import cni
from ocid.domain.cni import Answer, NetworkList, Plugin
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError, Unavailable
from ocid.ports import Attachment, NetworkOrder

T = TypeVar("T")

POD_INTERFACE: Final = "eth0"
PLUGIN_S_MAX: Final = 60.0
UNDO_S_MAX: Final = 90.0  # for the DEL after a failed ADD; what it does not reach, a later detach does
PLUGINS_AT_ONCE_MAX: Final = 32
STATE_BYTES_MAX: Final = 4 << 20  # configuration, arguments and result, each of them bounded
STDERR_BYTES_MAX: Final = 64 << 10
READ_BYTES: Final = 64 << 10
DRAIN_S: Final = 0.1  # how long output is read after the end of a plugin whose children hold its pipes
_POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a pod from before its ADD until after its DEL."""

    network: NetworkList
    arguments: str  # CNI_ARGS
    runtime: dict[str, Any]  # capability arguments
    netns: str
    result: dict[str, Any] | None = None  # None: the ADD has not come through
    addresses: tuple[str, ...] = ()


class Cni:
    """Attaches pods through plugins found in *bin_dirs*, in this order; remembers them in *state_dir*.

    *state_dir* must survive a reboot. *timeout_s* is for one plugin run; then its whole process group is killed.

    Raises:
        EffectFailed: from every async method: a plugin failed or answered nonsense; network, plugin and its words are
            in the message.
        Unavailable: a plugin did not end in time, or asked to be tried again later.
    """

    def __init__(self, bin_dirs: Sequence[Path], state_dir: Path, *, timeout_s: float = PLUGIN_S_MAX) -> None:
        self._bin_dirs = tuple(bin_dirs)
        self._state_dir = state_dir
        self._timeout_s = timeout_s
        self._running = trio.CapacityLimiter(PLUGINS_AT_ONCE_MAX)

    def missing(self, network: NetworkList) -> tuple[str, ...]:
        """Return the programs that the network needs and that no directory has."""
        names = {program: None for plugin in network.plugins for program in plugin.programs}
        return tuple(name for name in names if self._find(name) is None)

    async def attach(self, network: NetworkList, order: NetworkOrder) -> Attachment:
        """Run ADD of all plugins; an attached pod gets the same answer without running any.

        An ADD that fails or is cancelled is undone within ``UNDO_S_MAX``. An ADD that died with the daemon is undone
        first.

        Raises:
            InvalidRequest: the order cannot be expressed in CNI.
            NotFound: the pod's network namespace is gone.
        """
        state = _state(order, network, order.annotations)
        before = self._load(order)
        if before is not None:
            if before.result is not None and before.netns == order.netns and _has_interface(order.netns):
                return _attachment(before)
            await self._delete(order, before)
        if not _is_netns(order.netns):
            raise NotFound("network namespace", order.netns)
        await self._save(order, state, durable=False)
        try:
            await _in_thread(lambda: _loopback_up(order.netns), "bringing up the loopback interface")
            answer = Answer(addresses=(), document={})
            for position, plugin in enumerate(_needed(state)):
                result = answer.document if position else None
                out = await self._run("ADD", order, state, plugin, result)
                answer = cni.parse_answer(network, plugin.type, out)
            state = msgspec.structs.replace(state, result=answer.document, addresses=answer.addresses)
            await self._save(order, state, durable=True)
        except BaseException:
            await self._undo(order, state)
            raise
        return _attachment(state)

    async def detach(self, order: NetworkOrder, result: bytes | None, network: NetworkList | None) -> None:
        """Run DEL of all plugins, with what ADD was given; nothing left, or no namespace, is success.

        Args:
            result: the attachment's, from the log, for a pod of which the disk has nothing.
            network: the configuration of now, for the same case; None when there is none.
        """
        state = self._load(order)
        if state is None and network is not None:
            with suppress(InvalidRequest):  # CNI cannot express such a pod: it has never been attached
                state = _state(order, network, {})
                state = msgspec.structs.replace(state, result=cni.parse_result(result))
        if state is not None:
            await self._delete(order, state)

    async def _delete(self, order: NetworkOrder, state: State) -> None:
        """Run DEL of all plugins in reverse; one that fails does not keep the others from freeing what they hold."""
        failures: list[OcidError] = []
        result = state.result if state.network.version >= cni.DEL_WITH_RESULT_SINCE else None
        for plugin in reversed(_needed(state)):
            try:
                await self._run("DEL", order, state, plugin, result)
            except OcidError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        path = self._path(order)
        await _in_thread(lambda: path.unlink(missing_ok=True), f"forgetting pod {order.pod_id[:13]}")

    async def _undo(self, order: NetworkOrder, state: State) -> None:
        with trio.move_on_after(UNDO_S_MAX, shield=True), suppress(OcidError):
            await self._delete(order, state)

    # --- one plugin --------------------------------------------------------------------------------------------------

    async def _run(
        self, command: str, order: NetworkOrder, state: State, plugin: Plugin, result: Mapping[str, Any] | None
    ) -> bytes:
        """Run one plugin and return what it printed."""
        network = state.network
        program = self._find(plugin.type)
        if program is None:
            places = ", ".join(str(place) for place in self._bin_dirs)
            raise EffectFailed(f"CNI network {network.name!r}: no plugin {plugin.type!r} in {places}; install it")
        netns = state.netns if command == "ADD" or _is_netns(state.netns) else ""
        environment = tool_environment(
            CNI_COMMAND=command,
            CNI_CONTAINERID=order.pod_id,
            CNI_NETNS=netns,
            CNI_IFNAME=POD_INTERFACE,
            CNI_ARGS=state.arguments,
            CNI_PATH=":".join(str(place) for place in self._bin_dirs),
        )
        told = cni.stdin_config(network, plugin, state.runtime, result)
        async with self._running:
            doing = f"CNI network {network.name!r}: plugin {plugin.type!r}, asked to {command},"
            exit_code, out, err = await self._execute(program, environment, told, doing)
        if exit_code != 0:
            raise cni.failure(network, plugin.type, command, exit_code, out, err)
        return out

    async def _execute(
        self, program: str, environment: Mapping[str, str], told: bytes, doing: str
    ) -> tuple[int, bytes, bytes]:
        """Run a program as a process group of its own; return its exit code, output and errors."""
        out, err = _Output(cni.OUTPUT_BYTES_MAX), _Output(STDERR_BYTES_MAX)
        told_fd = os.memfd_create("cni-config", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(told_fd), "wb") as file:
                file.write(told)
            os.lseek(told_fd, 0, os.SEEK_SET)
            descriptors = {0: told_fd, 1: out.write_fd, 2: err.write_fd}
            child = spawn([program], environment=environment, descriptors=descriptors, new_session=True)
            out.close_writer()
            err.close_writer()
            exit_code = -1
            try:
                with trio.fail_after(self._timeout_s):
                    exit_code = await _finish(child, out, err)
            except trio.TooSlowError as error:
                raise Unavailable(f"{doing} did not end within {self._timeout_s:g} s, and was killed") from error
            finally:
                if exit_code < 0:
                    _kill_group(child)
                await child.end()
        finally:
            os.close(told_fd)
            await out.close()
            await err.close()
        if out.total > cni.OUTPUT_BYTES_MAX:
            raise EffectFailed(f"{doing} wrote more than {cni.OUTPUT_BYTES_MAX} bytes, and was killed")
        return exit_code, bytes(out.kept), bytes(err.kept)

    def _find(self, name: str) -> str | None:
        for place in self._bin_dirs:
            path = os.path.join(place, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    # --- what is remembered ------------------------------------------------------------------------------------------

    def _path(self, order: NetworkOrder) -> Path:
        if _POD_ID.fullmatch(order.pod_id) is None:
            raise InvalidRequest(f"pod id {order.pod_id[:140]!r} does not do as a file name")
        return self._state_dir / f"{order.pod_id}.json"

    def _load(self, order: NetworkOrder) -> State | None:
        """Read what is remembered; a file that a power loss left damaged counts as none."""
        try:
            with open(self._path(order), "rb") as file:
                return msgspec.json.decode(file.read(STATE_BYTES_MAX), type=State)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise EffectFailed(f"reading {self._path(order)}: {error.strerror}") from error

    async def _save(self, order: NetworkOrder, state: State, *, durable: bool) -> None:
        path, content = self._path(order), msgspec.json.encode(state)
        await _in_thread(lambda: _write(path, content, durable=durable), f"writing {path}")


def _write(path: Path, content: bytes, *, durable: bool) -> None:
    """Put *content* in the place of the file, as a whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(descriptor)
    temporary.replace(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Output:
    """A pipe for a child to write to, and the first *limit* bytes of what it wrote."""

    def __init__(self, limit: int) -> None:
        self.kept = bytearray()
        self.total = 0
        self._limit = limit
        reading, self.write_fd = os.pipe2(os.O_CLOEXEC)
        self._stream = trio.lowlevel.FdStream(reading)

    async def read(self, too_much: Callable[[], None]) -> None:
        """Read to the end; call *too_much* when there is more than the limit, and drop the rest."""
        while piece := await self._stream.receive_some(READ_BYTES):
            self.total += len(piece)
            self.kept += piece[: max(0, self._limit - len(self.kept))]
            if self.total > self._limit:
                too_much()

    def close_writer(self) -> None:
        """Close our copy of the writing end, once the child has its own."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    async def close(self) -> None:
        """Close both ends."""
        self.close_writer()
        with trio.CancelScope(shield=True):  # closing a descriptor does not wait
            await self._stream.aclose()


async def _finish(child: Child, out: _Output, err: _Output) -> int:
    """Read the child's output until it has ended, and return its exit code. One that says too much is killed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(out.read, lambda: _kill_group(child))
        nursery.start_soon(err.read, lambda: None)
        exit_code = await child.wait()
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
    return exit_code


def _kill_group(child: Child) -> None:
    """Kill the child and all that it started, as far as that stayed in its group."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # reaped: its number is no longer its own
        os.killpg(child.pid, signal.SIGKILL)


def _needed(state: State) -> tuple[Plugin, ...]:
    """Return the plugins to run: without published ports, ``portmap`` would only pass on the result, and look through
    the host's rules once more when the pod goes (containernetworking/plugins, portmap/main.go)."""
    first, *others = state.network.plugins
    if "portMappings" in state.runtime:
        return state.network.plugins
    return (first, *(plugin for plugin in others if plugin.type != "portmap"))


def _state(order: NetworkOrder, network: NetworkList, annotations: Mapping[str, str]) -> State:
    """Return what the plugins of *network* are to be told about the pod."""
    runtime = cni.capability_arguments(
        ports=order.port_mappings, annotations=annotations, aliases=[order.hostname or order.name]
    )
    who = cni.arguments(namespace=order.namespace, name=order.name, pod_id=order.pod_id, uid=order.uid)
    return State(network=network, arguments=who, runtime=runtime, netns=order.netns)


def _attachment(state: State) -> Attachment:
    assert state.result is not None, "only an ADD that came through has an attachment"
    document = msgspec.json.encode(state.result)
    return Attachment(addresses=state.addresses, via=f"cni:{state.network.name}", result=document)


def _is_netns(path: str) -> bool:
    """Say whether a namespace is mounted at *path*; after a reboot there is nothing, or a plain file."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _within(path: str, work: Callable[[], T]) -> T:
    """Run *work* in the namespace at *path*."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return inside(descriptor, work)
    finally:
        os.close(descriptor)


def _has_interface(path: str) -> bool:
    return _is_netns(path) and _within(path, lambda: index_of(POD_INTERFACE)) is not None


def _loopback_up(path: str) -> None:
    _within(path, loopback_up)


async def _in_thread(work: Callable[[], T], doing: str) -> T:
    try:
        return await trio.to_thread.run_sync(work)
    except OSError as error:
        raise EffectFailed(f"{doing}: {error.strerror or error}") from error
