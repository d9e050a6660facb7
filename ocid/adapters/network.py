"""The pod network of the node: CNI when it is configured, else the built-in bridge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ocid.adapters.bridge import Bridge
from ocid.adapters.cni import Cni, interfaces
from ocid.adapters.cniconf import SCAN_S, Configurations
from ocid.adapters.nftables import Table
from ocid.adapters.plugins import PLUGIN_S_MAX
from ocid.adapters.published import Published
from ocid.domain import hostports, ipam, networks
from ocid.domain.cni import NetworkList
from ocid.domain.hostports import HostPort
from ocid.domain.networks import Wish
from ocid.errors import InvalidRequest, NotFound, OcidError, TimedOut, Unavailable
from ocid.ports import Attachment, NetworkOrder

STATUS_S: Final = 5.0  # how often plugins are asked whether they are ready; as often as a kubelet asks us
CHECK_S_MAX: Final = 15.0  # of all plugins for one pod; a pod that is to be stopped waits for it
COLLECT_S_MAX: Final = 15.0  # a start goes on without what was not freed by then; the next one tries again


class Networks:
    """Implements ``ocid.ports.Network``.

    Any configuration in *cni_conf_dir* means that this node's pods belong on a CNI network: while none of them is
    valid, no pod is attached at all, rather than to a network that nobody meant. Without any, pods go to the built-in
    bridge; without *subnets* there is no built-in bridge. A pod stays with the kind of network that it was declared
    with. Pods outlive the daemon: nothing is taken down when it ends.

    Args:
        cni_conf_dir: where ``*.conflist``, ``*.conf`` and ``*.json`` lie; need not exist.
        handler_conf_dirs: the same for runtime handlers that have their own, "" for the default one; pods of these
            have no other network.
        cni_bin_dirs: where plugins are looked for, in order.
        cni_state_dir: what must be undone, a file for each pod; must survive a reboot.
        bridge: name of the built-in bridge: a letter, then at most 14 letters, digits and ``_``.
        subnets: its subnets, at most one IPv4 and one IPv6, the primary one first.
        further: the networks that pods may have beside their first one, by name; "*" for all that are configured.
    Raises:
        InvalidRequest: a bad bridge name or subnet.
    """

    def __init__(
        self,
        *,
        cni_conf_dir: Path,
        cni_bin_dirs: Sequence[Path],
        cni_state_dir: Path,
        bridge: str,
        subnets: Sequence[str],
        handler_conf_dirs: Mapping[str, Path] | None = None,
        further: Sequence[str] = (),
        plugin_timeout_s: float = PLUGIN_S_MAX,
        nft: str = "nft",
    ) -> None:
        self._cni = Cni(cni_bin_dirs, cni_state_dir, timeout_s=plugin_timeout_s)
        self._node = Configurations(cni_conf_dir, self._cni.missing, cni_bin_dirs)
        self._own = {
            handler: Configurations(directory, self._cni.missing, cni_bin_dirs)
            for handler, directory in (handler_conf_dirs or {}).items()
        }
        self._further = tuple(further)
        self._table = Table(bridge, ipam.subnets_of(subnets) if subnets else (), nft)
        self._published = Published(self._table)
        self._bridge = Bridge(bridge, subnets, nft=nft, table=self._table) if subnets else None
        self._asked: NetworkList | None = None  # the network whose plugins said …
        self._said: str | None = None  # … why they are not ready
        self._busy: dict[str, trio.Lock] = {}  # pods with plugins at work: they must not be called in parallel

    def kind(self, handler: str) -> str:
        """Return "cni" or "bridge": what a pod of this runtime handler, declared now, will use."""
        if handler in self._own:
            return "cni"
        self._node.scan()
        return "bridge" if self._bridge is not None and self._node.empty else "cni"

    def subnets(self) -> tuple[str, ...]:
        """Return the built-in network's subnets as CIDRs, at most one IPv4 and one IPv6."""
        return () if self._bridge is None else self._bridge.subnets()

    def not_ready(self) -> str | None:
        """Return why pods cannot be attached now, or None; looks at the disk at most once a second."""
        if self.kind("") == "bridge":
            assert self._bridge is not None
            return self._bridge.not_ready()
        node = self._of_handler("")
        fault = node.not_ready()
        if fault is not None:
            return fault or f"no CNI configuration in {node.directory}, and no built-in network"
        network = node.network
        if network is None or not network.tells_status:
            return None
        if self._asked != network:
            return f"the plugins of CNI network {network.name!r} have not said yet whether they are ready"
        return self._said

    async def watch(self) -> None:
        """Ask the plugins of the node's network for their status, or repair the built-in network, for ever."""
        asked_at = -STATUS_S
        while True:
            network = self._of_handler("").network
            due = network != self._asked or trio.current_time() - asked_at >= STATUS_S
            if network is not None and network.tells_status and due:
                asked_at = trio.current_time()
                try:
                    await self._cni.status(network)
                    self._asked, self._said = network, None
                except OcidError as error:
                    self._asked, self._said = network, error.message
            elif due and self._bridge is not None and self._bridge.fault is not None and self.kind("") == "bridge":
                asked_at = trio.current_time()
                with suppress(OcidError):  # the bridge remembers it
                    await self._bridge.prepare()
            await trio.sleep(SCAN_S)

    def admit(self, handler: str, kind: str, names: Sequence[str]) -> None:
        """Say whether a pod on this *kind* of network can have the further networks *names*.

        Raises:
            InvalidRequest: one is not configured, or not for pods to ask for, or the pod is on no CNI network.
        """
        if kind != "cni":
            raise InvalidRequest(f"{networks.ANNOTATION}: the pod is on the {kind} network; only CNI has further ones")
        for name in names:
            if not networks.may_have(name, self._further):
                raise InvalidRequest(f"CNI network {name!r} is not in [network] further, where pods may ask for it")
            if name not in self._of_handler(handler).named:
                where = self._of_handler(handler).directory
                raise InvalidRequest(f"CNI network {name!r} is in no valid configuration in {where}")

    async def attach(self, order: NetworkOrder) -> Attachment:
        """Give the pod its interface and addresses. Called again for an attached pod, returns the same.

        Raises:
            Unavailable: there is no network of the order's kind now.
            NotFound: a further network is configured no more.
            OcidError: as ``Bridge.attach``, ``Cni.attach`` and ``Published.publish``.
        """
        if order.network == "bridge":
            return await self._built_in(order).attach(order)
        if order.network != "cni":
            raise InvalidRequest(f"pod network {order.network!r}: wanted 'bridge' or 'cni'")
        configured = self._of_handler(order.handler)
        if configured.network is None:
            where = f"in {configured.directory}"
            raise Unavailable(configured.not_ready() or f"no CNI configuration {where}; put one there")
        further = self._configured(order)
        missing = [wish.network for wish in order.networks if wish not in [known for _, known in further]]
        if missing:
            raise NotFound("CNI network", missing[0])
        async with self._alone(order):
            attachment = await self._cni.attach(configured.network, order, further)
            await self._published.publish(order, self._cni.unmapped(order))
        return attachment

    async def detach(
        self, order: NetworkOrder, result: bytes | None, further: Mapping[str, bytes] | None = None
    ) -> None:
        """Take the pod's interfaces and addresses away. Nothing left, or no namespace, is success."""
        if order.network == "bridge":
            await self._built_in(order).detach(order)
        elif order.network == "cni":
            async with self._alone(order):
                if hostports.wanted(order.port_mappings):
                    await self._table.remove(order.pod_id)
                network = self._of_handler(order.handler).network
                await self._cni.detach(order, result, network, self._configured(order), further)

    async def check(self, order: NetworkOrder) -> None:
        """Ask the plugins whether the pod still has what ADD gave it; of the built-in network nothing is asked.

        Raises:
            EffectFailed: it has not; or TimedOut: they did not say so within 15 s.
        """
        if order.network != "cni":
            return
        try:
            async with self._alone(order):
                with trio.fail_after(CHECK_S_MAX):
                    await self._cni.check(order)
        except trio.TooSlowError as error:
            raise TimedOut(f"the CNI plugins did not check pod {order.pod_id[:13]} in {CHECK_S_MAX:g} s") from error

    async def reconcile(self, live: Collection[NetworkOrder], others: Collection[NetworkOrder]) -> tuple[str, ...]:
        """Make host ports exactly those of the *live* pods, and free what plugins hold for pods that are gone.

        Pods among the *others* are half attached or half detached: their own work goes on with them later.
        """
        ports: list[HostPort] = []
        for order in live:
            if order.network == "cni":
                ports += await self._published.ports_of(order, self._cni.unmapped(order))
            elif order.network == "bridge":
                ports += hostports.host_ports(order.pod_id, order.addresses, order.port_mappings)
        built_in = self.kind("") == "bridge" or any(order.network == "bridge" for order in live)
        if self._bridge is not None and built_in:
            await self._bridge.repair()
        if ports or built_in or await trio.to_thread.run_sync(self._table.exists):
            await self._table.replace(ports)
        places = (self._node, *self._own.values())
        configured = {name: network for place in reversed(places) for name, network in place.named.items()}
        first = [place.network.name for place in places if place.network]
        attached = {str(order.pod_id): interfaces(order) for order in (*live, *others) if order.network == "cni"}
        with trio.move_on_after(COLLECT_S_MAX):
            return await self._cni.collect(configured, first, attached)
        raise TimedOut(f"CNI plugins did not free what is left of pods that are gone in {COLLECT_S_MAX:g} s")

    async def remove_all(self) -> None:
        """Remove the built-in bridge and the nftables table. For tests and uninstalling: pods lose their network."""
        if self._bridge is not None:
            await self._bridge.remove_all()
        else:
            await self._table.uninstall()

    def _built_in(self, order: NetworkOrder) -> Bridge:
        if self._bridge is None:
            raise Unavailable(f"pod {order.pod_id[:13]} is of the built-in network, which has no subnet; configure one")
        return self._bridge

    def _of_handler(self, handler: str) -> Configurations:
        """Return the configurations that a handler's pods go by, as they are now."""
        configured = self._own.get(handler, self._node)
        configured.scan()
        return configured

    def _configured(self, order: NetworkOrder) -> list[tuple[NetworkList, Wish]]:
        """Return those further networks of a pod that are configured now."""
        named = self._of_handler(order.handler).named
        return [(named[wish.network], wish) for wish in order.networks if wish.network in named]

    def _alone(self, order: NetworkOrder) -> _Alone:
        return _Alone(self._busy, order.pod_id)


class _Alone:
    """Holds a pod's lock, which is there only while somebody wants it."""

    def __init__(self, busy: dict[str, trio.Lock], pod_id: str) -> None:
        self._busy = busy
        self._pod_id = pod_id
        self._lock = busy.setdefault(pod_id, trio.Lock())

    async def __aenter__(self) -> None:
        try:
            await self._lock.acquire()
        except trio.Cancelled:
            if not self._lock.locked():
                self._busy.pop(self._pod_id, None)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        if not self._lock.statistics().tasks_waiting:
            self._busy.pop(self._pod_id, None)
