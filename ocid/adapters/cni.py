"""Attaches pods through CNI plugins: ADD in order, DEL in reverse, and a memory of what must be undone.

Before the first plugin of an ADD runs, a file ``<state>/<pod id>.json`` names the configuration and arguments used;
when the ADD is through, the file also holds the result and is on the disk. So DEL gets what ADD got, even when the
configuration has changed, the daemon has died in the middle, or the machine was rebooted and the namespace is gone.
A further network of the pod has a file of its own, ``<pod id>@<interface>.json``.

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
from ocid.domain import cni, networks
from ocid.domain.cni import Answer, NetworkList, Plugin
from ocid.domain.networks import FIRST_INTERFACE, Wish
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError
from ocid.ports import Attachment, FurtherAttachment, NetworkOrder

T = TypeVar("T")

UNDO_S_MAX: Final = 90.0  # for all DELs after a failed ADD; what it does not reach, a later detach does
STATE_BYTES_MAX: Final = 4 << 20  # configuration, arguments and result, each of them bounded
_POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_FILE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]{0,127})(?:@([a-zA-Z][a-zA-Z0-9_.\-]{0,14}))?\.json")

Further = Sequence[tuple[NetworkList, Wish]]


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a pod's interface from before its ADD until after its DEL."""

    network: NetworkList
    arguments: str  # CNI_ARGS
    runtime: dict[str, Any]  # capability arguments
    netns: str
    result: dict[str, Any] | None = None  # None: the ADD has not come through
    addresses: tuple[str, ...] = ()
    interface: str = FIRST_INTERFACE
    place: int = 0  # in the order of the pod's ADDs


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
        state = self._load(order.pod_id, FIRST_INTERFACE)
        if state is None or state.result is None or state.network.maps_ports:
            return ()
        return cni.with_prefixes(state.addresses, state.result)

    async def attach(self, network: NetworkList, order: NetworkOrder, further: Further = ()) -> Attachment:
        """Run ADD of all plugins, network by network; an attached pod gets the same answer without running any.

        When one fails or is cancelled, all of the pod's are undone, in reverse and within ``UNDO_S_MAX``. An ADD that
        died with the daemon is undone first.

        Raises:
            InvalidRequest: the order cannot be expressed in CNI.
            NotFound: the pod's network namespace is gone.
        """
        wanted = [_state(order, network, order.annotations)]
        wanted += [_further(order, one, wish, order.annotations) for one, wish in further]
        before = self._known(order)
        kept = {state.interface: state for state in before if _holds(state, order.netns)}
        await self._delete_all(order.pod_id, [state for state in before if state.interface not in kept])
        if len(kept) < len(wanted) and not _is_netns(order.netns):
            raise NotFound("network namespace", order.netns)
        try:
            made = [kept.get(state.interface) or await self._add(order, state) for state in wanted]
        except BaseException:
            with trio.move_on_after(UNDO_S_MAX, shield=True), suppress(OcidError):
                await self._delete_all(order.pod_id, self._known(order))
            raise
        return _attachment(made)

    async def detach(
        self,
        order: NetworkOrder,
        result: bytes | None,
        network: NetworkList | None,
        further: Further = (),
        results: Mapping[str, bytes] | None = None,
    ) -> None:
        """Run DEL of all plugins, the last network first, with what ADD was given; nothing left is success.

        Args:
            result: the attachment's, from the log, for a pod of which the disk has nothing.
            network: the configuration of now, for the same case; None when there is none.
            further: the same of further networks; those that are configured no more are left out.
            results: the further attachments', by interface.
        """
        states = {state.interface: state for state in self._known(order)}
        with suppress(InvalidRequest):  # CNI cannot express such a pod: it has never been attached
            if network is not None and FIRST_INTERFACE not in states:
                state = _state(order, network, {})
                states[FIRST_INTERFACE] = msgspec.structs.replace(state, result=cni.parse_result(result))
            for one, wish in further:
                if wish.interface not in states:
                    state = _further(order, one, Wish(network=wish.network, interface=wish.interface), {})
                    known = cni.parse_result((results or {}).get(wish.interface))
                    states[wish.interface] = msgspec.structs.replace(state, result=known)
        await self._delete_all(order.pod_id, states.values())

    async def check(self, order: NetworkOrder) -> None:
        """Run CHECK of all plugins, unless the network does not want it, is too old for it, or the pod not attached.

        Raises:
            EffectFailed: what ADD made is not there any more; the plugin's words are in the message.
        """
        for state in self._known(order):
            if state.result is not None and state.network.checks:
                for plugin in _needed(state):
                    await self._run("CHECK", order.pod_id, state, plugin, state.result)

    async def collect(
        self, configured: Mapping[str, NetworkList], always: Collection[str], attached: Mapping[str, Collection[str]]
    ) -> tuple[str, ...]:
        """Free what plugins hold for pods that are not *attached* any more; return the ids of those remembered.

        Whatever is remembered of such a pod gets its DEL. Plugins of a network of 1.1.0 or newer are then told who is
        left ("GC"), and free what nobody remembers. One that fails does not keep the others from it. An attached pod of
        which the disk has lost the memory may be on any network.

        Args:
            configured: networks by name; GC is for those that pods of ours use or used, and …
            always: … for these.
            attached: interfaces by pod id.
        """
        failures: list[OcidError] = []
        gone: list[str] = []
        left: dict[str, set[tuple[str, str]]] = {name: set() for name in always}  # by network
        for pod_id, interfaces in (await _in_thread(self._remembered, f"listing {self._state_dir}")).items():
            states = self._states(pod_id, interfaces)
            for state in states:
                left.setdefault(state.network.name, set()).add((pod_id, state.interface))
            if pod_id not in attached and states:
                try:
                    await self._delete_all(pod_id, states)
                    gone.append(pod_id)
                    for state in states:
                        left[state.network.name].discard((pod_id, state.interface))
                except OcidError as error:  # those that are left stay valid, so that DEL can be tried again
                    failures.append(error)
        every = {(pod_id, interface) for pod_id, interfaces in attached.items() for interface in interfaces}
        unknown = every - {one for those in left.values() for one in those}
        for name in sorted(left.keys() & configured.keys()):
            network = configured[name]
            for plugin in network.plugins if network.collects else ():
                told = cni.collecting_config(network, plugin, left[name] | unknown)
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

    async def _add(self, order: NetworkOrder, state: State) -> State:
        """Run ADD of all plugins of one network; whatever comes of it, the disk knows what to undo."""
        await self._save(order.pod_id, state, durable=False)
        await _in_thread(lambda: _loopback_up(order.netns), "bringing up the loopback interface")
        answer = Answer(addresses=(), document={})
        for position, plugin in enumerate(_needed(state)):
            result = answer.document if position else None
            out = await self._run("ADD", order.pod_id, state, plugin, result)
            answer = cni.parse_answer(state.network, plugin.type, out)
        state = msgspec.structs.replace(state, result=answer.document, addresses=answer.addresses)
        await self._save(order.pod_id, state, durable=True)
        return state

    async def _delete_all(self, pod_id: str, states: Iterable[State]) -> None:
        """Run DEL of all networks, the last one first; one that fails does not keep the others from it."""
        failures: list[OcidError] = []
        for state in sorted(states, key=lambda one: one.place, reverse=True):
            try:
                await self._delete(pod_id, state)
            except OcidError as error:
                failures.append(error)
        if failures:
            raise failures[0]

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
        path = self._path(pod_id, state.interface)
        await _in_thread(lambda: path.unlink(missing_ok=True), f"forgetting pod {pod_id[:13]}")

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
            CNI_IFNAME=state.interface,
            CNI_ARGS=state.arguments,
        )

    # --- what is remembered ------------------------------------------------------------------------------------------

    def _path(self, pod_id: str, interface: str) -> Path:
        if _POD_ID.fullmatch(pod_id) is None:
            raise InvalidRequest(f"pod id {pod_id[:140]!r} does not do as a file name")
        return self._state_dir / f"{pod_id}{'' if interface == FIRST_INTERFACE else f'@{interface}'}.json"

    def _remembered(self) -> dict[str, list[str]]:
        """Return the interfaces of which something is remembered, by pod id."""
        found: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):
            for name in sorted(path.name for path in self._state_dir.iterdir()):
                if (parts := _FILE.fullmatch(name)) is not None:
                    found.setdefault(parts[1], []).append(parts[2] or FIRST_INTERFACE)
        return found

    def _known(self, order: NetworkOrder) -> list[State]:
        """Return what is remembered of the interfaces that the order names."""
        return self._states(order.pod_id, interfaces(order))

    def _states(self, pod_id: str, interfaces: Iterable[str]) -> list[State]:
        loaded = (self._load(pod_id, interface) for interface in interfaces)
        return [state for state in loaded if state is not None]

    def _load(self, pod_id: str, interface: str) -> State | None:
        """Read what is remembered; a file that a power loss left damaged counts as none."""
        path = self._path(pod_id, interface)
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(STATE_BYTES_MAX), type=State)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise EffectFailed(f"reading {path}: {error.strerror}") from error

    async def _save(self, pod_id: str, state: State, *, durable: bool) -> None:
        path, content = self._path(pod_id, state.interface), msgspec.json.encode(state)
        await _in_thread(lambda: _write(path, content, durable=durable), f"writing {path}")


def interfaces(order: NetworkOrder) -> tuple[str, ...]:
    """Return the names of all interfaces that the pod has, or shall have, inside."""
    return (FIRST_INTERFACE, *(wish.interface for wish in order.networks))


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


def _further(order: NetworkOrder, network: NetworkList, wish: Wish, annotations: Mapping[str, str]) -> State:
    """Return what the plugins of a further network are to be told about the pod."""
    who = cni.arguments(namespace=order.namespace, name=order.name, pod_id=order.pod_id, uid=order.uid)
    return State(
        network=network,
        arguments=who,
        runtime=networks.capability_arguments(network, wish, annotations),
        netns=order.netns,
        interface=wish.interface,
        place=interfaces(order).index(wish.interface),
    )


def _attachment(states: Sequence[State]) -> Attachment:
    documents = [msgspec.json.encode(state.result) for state in states]
    first, *others = zip(states, documents, strict=True)
    return Attachment(
        addresses=first[0].addresses,
        via=f"cni:{first[0].network.name}",
        result=first[1],
        further=tuple(
            FurtherAttachment(
                network=state.network.name, interface=state.interface, addresses=state.addresses, result=document
            )
            for state, document in others
        ),
    )


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


def _holds(state: State, netns: str) -> bool:
    """Say whether the pod still has what an ADD that came through gave it."""
    if state.result is None or state.netns != netns or not _is_netns(netns):
        return False
    return _within(netns, lambda: index_of(state.interface)) is not None


def _loopback_up(path: str) -> None:
    _within(path, loopback_up)


async def _in_thread(work: Callable[[], T], doing: str) -> T:
    try:
        return await trio.to_thread.run_sync(work)
    except OSError as error:
        raise EffectFailed(f"{doing}: {error.strerror or error}") from error
