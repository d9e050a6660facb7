"""Attaches pods through CNI plugins: ADD in order, DEL in reverse, and a memory of what must be undone.

Before the first plugin of an ADD runs, a file ``<state>/<pod id>.json`` names the configuration and arguments used;
when the ADD is through, the file also holds the result and is on the disk. So DEL gets what ADD got, even when the
configuration has changed, the daemon has died in the middle, or the machine was rebooted and the namespace is gone.

Source: CNI specification 1.1.0, sections 2 to 4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from ocid.adapters.links import index_of, inside, loopback_up
from ocid.adapters.plugins import PLUGIN_S_MAX, Plugins
from ocid.domain import cni
from ocid.domain.cni import Answer, NetworkList, Plugin
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError
from ocid.ports import Attachment, NetworkOrder

T = TypeVar("T")

POD_INTERFACE: Final = "eth0"
UNDO_S_MAX: Final = 90.0  # for the DEL after a failed ADD; what it does not reach, a later detach does
STATE_BYTES_MAX: Final = 4 << 20  # configuration, arguments and result, each of them bounded
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

    *state_dir* must survive a reboot. *timeout_s* is for one plugin run; then its whole process group is killed. The
    caller sees to it that a pod's calls do not overlap, and that ``collect`` runs while no pod is attached.

    Raises:
        EffectFailed: from every async method: a plugin failed or answered nonsense; network, plugin and its words are
            in the message.
        Unavailable: a plugin did not end in time, or asked to be tried again later.
    """

    def __init__(self, bin_dirs: Sequence[Path], state_dir: Path, *, timeout_s: float = PLUGIN_S_MAX) -> None:
        self._plugins = Plugins(bin_dirs, timeout_s)
        self._state_dir = state_dir

    def missing(self, network: NetworkList) -> tuple[str, ...]:
        """Return the programs that the network needs and that no directory has."""
        return self._plugins.missing(network)

    def unmapped(self, order: NetworkOrder) -> tuple[str, ...]:
        """Return the pod's addresses as CIDRs if no plugin of its network maps host ports, else ().

        A pod that is not attached has none.
        """
        state = self._load(order.pod_id)
        if state is None or state.result is None or state.network.maps_ports:
            return ()
        return cni.with_prefixes(state.addresses, state.result)

    async def attach(self, network: NetworkList, order: NetworkOrder) -> Attachment:
        """Run ADD of all plugins; an attached pod gets the same answer without running any.

        An ADD that fails or is cancelled is undone within ``UNDO_S_MAX``. An ADD that died with the daemon is undone
        first.

        Raises:
            InvalidRequest: the order cannot be expressed in CNI.
            NotFound: the pod's network namespace is gone.
        """
        state = _state(order, network, order.annotations)
        before = self._load(order.pod_id)
        if before is not None:
            if before.result is not None and before.netns == order.netns and _has_interface(order.netns):
                return _attachment(before)
            await self._delete(order.pod_id, before)
        if not _is_netns(order.netns):
            raise NotFound("network namespace", order.netns)
        await self._save(order.pod_id, state, durable=False)
        try:
            await _in_thread(lambda: _loopback_up(order.netns), "bringing up the loopback interface")
            answer = Answer(addresses=(), document={})
            for position, plugin in enumerate(_needed(state)):
                result = answer.document if position else None
                out = await self._run("ADD", order.pod_id, state, plugin, result)
                answer = cni.parse_answer(network, plugin.type, out)
            state = msgspec.structs.replace(state, result=answer.document, addresses=answer.addresses)
            await self._save(order.pod_id, state, durable=True)
        except BaseException:
            await self._undo(order.pod_id, state)
            raise
        return _attachment(state)

    async def detach(self, order: NetworkOrder, result: bytes | None, network: NetworkList | None) -> None:
        """Run DEL of all plugins, with what ADD was given; nothing left, or no namespace, is success.

        Args:
            result: the attachment's, from the log, for a pod of which the disk has nothing.
            network: the configuration of now, for the same case; None when there is none.
        """
        state = self._load(order.pod_id)
        if state is None and network is not None:
            with suppress(InvalidRequest):  # CNI cannot express such a pod: it has never been attached
                state = _state(order, network, {})
                state = msgspec.structs.replace(state, result=cni.parse_result(result))
        if state is not None:
            await self._delete(order.pod_id, state)

    async def check(self, order: NetworkOrder) -> None:
        """Run CHECK of all plugins, unless the network does not want it, is too old for it, or the pod not attached.

        Raises:
            EffectFailed: what ADD made is not there any more; the plugin's words are in the message.
        """
        state = self._load(order.pod_id)
        if state is not None and state.result is not None and state.network.checks:
            for plugin in _needed(state):
                await self._run("CHECK", order.pod_id, state, plugin, state.result)

    async def collect(self, networks: Iterable[NetworkList], attached: Collection[str]) -> tuple[str, ...]:
        """Free what plugins hold for pods that are not *attached* any more; return the ids of those remembered.

        Whatever is remembered of such a pod gets its DEL. Plugins of a network of 1.1.0 or newer are then told who is
        left ("GC"), and free what nobody remembers. One that fails does not keep the others from it. An attached pod of
        which the disk has lost the memory may be on any network.
        """
        failures: list[OcidError] = []
        gone: list[str] = []
        left: dict[str, list[str]] = {}  # pod ids by network
        for pod_id in await _in_thread(self._remembered, f"listing {self._state_dir}"):
            state = self._load(pod_id)
            if pod_id in attached and state is not None:
                left.setdefault(state.network.name, []).append(pod_id)
            elif pod_id not in attached and state is not None:
                try:
                    await self._delete(pod_id, state)
                    gone.append(pod_id)
                except OcidError as error:
                    left.setdefault(state.network.name, []).append(pod_id)  # so that its DEL can be tried again
                    failures.append(error)
        unknown = set(attached) - {pod_id for pod_ids in left.values() for pod_id in pod_ids}
        for network in networks:
            for plugin in network.plugins if network.collects else ():
                valid = {*left.get(network.name, ()), *unknown}
                told = cni.collecting_config(network, plugin, valid, POD_INTERFACE)
                try:
                    await self._plugins.run("GC", network, plugin, told)
                except OcidError as error:
                    failures.append(error)
        if failures:
            raise failures[0]
        return tuple(gone)

    async def status(self, network: NetworkList) -> None:
        """Ask all plugins of a network of 1.1.0 or newer whether they can attach pods.

        Raises:
            EffectFailed: one cannot; its words are in the message.
        """
        for plugin in network.plugins if network.tells_status else ():
            await self._plugins.run("STATUS", network, plugin, cni.stdin_config(network, plugin, {}, None))

    async def _delete(self, pod_id: str, state: State) -> None:
        """Run DEL of all plugins in reverse; one that fails does not keep the others from freeing what they hold."""
        failures: list[OcidError] = []
        result = state.result if cni.at_least(state.network, cni.DEL_WITH_RESULT_SINCE) else None
        for plugin in reversed(_needed(state)):
            try:
                await self._run("DEL", pod_id, state, plugin, result)
            except OcidError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        path = self._path(pod_id)
        await _in_thread(lambda: path.unlink(missing_ok=True), f"forgetting pod {pod_id[:13]}")

    async def _undo(self, pod_id: str, state: State) -> None:
        with trio.move_on_after(UNDO_S_MAX, shield=True), suppress(OcidError):
            await self._delete(pod_id, state)

    async def _run(
        self, command: str, pod_id: str, state: State, plugin: Plugin, result: Mapping[str, Any] | None
    ) -> bytes:
        """Run one plugin for a pod and return what it printed."""
        return await self._plugins.run(
            command,
            state.network,
            plugin,
            cni.stdin_config(state.network, plugin, state.runtime, result),
            CNI_CONTAINERID=pod_id,
            CNI_NETNS=state.netns if command in ("ADD", "CHECK") or _is_netns(state.netns) else "",
            CNI_IFNAME=POD_INTERFACE,
            CNI_ARGS=state.arguments,
        )

    # --- what is remembered ------------------------------------------------------------------------------------------

    def _path(self, pod_id: str) -> Path:
        if _POD_ID.fullmatch(pod_id) is None:
            raise InvalidRequest(f"pod id {pod_id[:140]!r} does not do as a file name")
        return self._state_dir / f"{pod_id}.json"

    def _remembered(self) -> list[str]:
        """Return the ids of all pods of which something is remembered."""
        with suppress(FileNotFoundError):
            names = [path.stem for path in self._state_dir.iterdir() if path.suffix == ".json"]
            return sorted(name for name in names if _POD_ID.fullmatch(name))
        return []

    def _load(self, pod_id: str) -> State | None:
        """Read what is remembered; a file that a power loss left damaged counts as none."""
        try:
            with open(self._path(pod_id), "rb") as file:
                return msgspec.json.decode(file.read(STATE_BYTES_MAX), type=State)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise EffectFailed(f"reading {self._path(pod_id)}: {error.strerror}") from error

    async def _save(self, pod_id: str, state: State, *, durable: bool) -> None:
        path, content = self._path(pod_id), msgspec.json.encode(state)
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
        ports=order.port_mappings,
        annotations=annotations,
        aliases=[order.hostname or order.name],
        dns=order.dns,
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
