"""The built-in pod network: one bridge, a veth pair for each pod, addresses from the log, masquerade and host ports.

Everything is looked at again with each pod and repaired when it is missing: the bridge, its addresses, forwarding, the
nftables table. What others add to the bridge stays. Pods outlive the daemon, so nothing is taken down when it ends.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import trio

from ocid.adapters import netlink, netsysctls
from ocid.adapters.links import delete_soon, index_of, inside
from ocid.adapters.netlink import Interface, Link, Netlink
from ocid.adapters.nftables import Table
from ocid.adapters.shaping import shape, unshape
from ocid.domain import ipam
from ocid.domain.bandwidth import Bandwidth, bandwidth_of
from ocid.domain.hostports import host_ports
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError
from ocid.ports import Attachment, NetworkOrder

T = TypeVar("T")

POD_INTERFACE: Final = "eth0"
INTERFACE_BYTES_MAX: Final = 15  # IFNAMSIZ less the zero byte
THREADS_MAX: Final = 8  # the kernel does one change of links at a time; more threads would only wait
MTU_DEFAULT: Final = 1500  # where the host has no default route
SETTLE_S_MAX: Final = 1.0  # then the pod goes on; its first packets may be lost
SETTLE_STEP_S: Final = 0.0002  # usually one
ELSEWHERE: Final = ("8.8.8.8", "2001:4860:4860::8888")  # looked up in the routing table, never sent to

_MTU: Final = (  # IP_MTU and IPV6_MTU of a connected socket. Source: linux/in.h, linux/in6.h
    (socket.AF_INET, socket.IPPROTO_IP, 14),
    (socket.AF_INET6, socket.IPPROTO_IPV6, 24),
)


class Bridge:
    """The built-in network on bridge *name* with *subnets*, at most one IPv4 and one IPv6, the primary one first.

    Several bridges, of one daemon or of many, do not disturb each other as long as names and subnets differ.

    Raises:
        InvalidRequest: from the constructor: a bad name or subnet.
        EffectFailed: from every async method: the kernel or nft refused; its words are in the message.
        Unsupported: from those that write the nftables table: there is no nft.
    """

    def __init__(self, name: str, subnets: Sequence[str], *, nft: str = "nft", table: Table | None = None) -> None:
        self._name = name
        self._subnets = ipam.subnets_of(subnets)
        self._gateways = tuple(ipaddress.ip_interface(ipam.gateway(str(subnet))) for subnet in self._subnets)
        self._nft = nft
        self._table = table or Table(name, self._subnets, nft)
        self._changing = trio.Lock()  # of what all pods share: bridge and sysctls
        self.fault: str | None = None  # why what all pods share could not be set up, the last time
        self._routed = False  # pods are known to be reached through the bridge
        self._threads = trio.CapacityLimiter(THREADS_MAX)

    def subnets(self) -> tuple[str, ...]:
        """Return the subnets as CIDRs, the primary one first."""
        return tuple(str(subnet) for subnet in self._subnets)

    def not_ready(self) -> str | None:
        """Return why no pod can be attached, or None. Looks for nft on PATH, and tells what failed last."""
        if shutil.which(self._nft) is None:
            return f"no {self._nft!r} on PATH: install nftables, or configure a CNI network"
        return self.fault

    async def prepare(self) -> None:
        """Make or repair the bridge, its addresses, forwarding, and the nftables table."""
        async with self._changing:
            await self._prepared()

    async def attach(self, order: NetworkOrder) -> Attachment:
        """Give the pod its interface, addresses, default routes and host ports; finish what was begun before.

        Raises:
            InvalidRequest: no address, one outside the subnets, or a bad interface, host port or bandwidth.
            NotFound: the pod's network namespace is gone.
            AlreadyExists: another pod has one of the host ports.
        """
        addresses, limits = self._checked(order), bandwidth_of(order.annotations)
        ports = host_ports(order.pod_id, order.addresses, order.port_mappings)
        async with self._changing:
            bridge = await self._prepared()
            if ports:
                await self._table.add(order.pod_id, ports)
                # For 127.0.0.1:<host port>; the table guards it.
                netsysctls.write("ipv4/conf", self._name, "route_localnet", "1")
        with trio.CancelScope(shield=True):  # milliseconds; what is half made would only be found again
            await self._in_thread(
                lambda: self._attach(order, addresses, limits, bridge), f"attaching pod {order.pod_id[:13]}"
            )
        return Attachment(addresses=tuple(str(address.ip) for address in addresses), via="bridge")

    async def detach(self, order: NetworkOrder) -> None:
        """Take the pod's interface and host ports away. Nothing left, or no namespace, is success."""
        if not order.interface:
            raise InvalidRequest(f"pod {order.pod_id[:13]} has no interface name, wanted the host end of its veth pair")
        await self._table.remove(order.pod_id)

        def delete() -> None:
            delete_soon(order.interface)
            unshape(order.interface)

        await self._in_thread(delete, f"detaching pod {order.pod_id[:13]}")

    async def repair(self) -> None:
        """Make or repair what ``prepare`` does, except the nftables table. For the daemon's start."""
        async with self._changing:
            await self._prepared(install=False)

    async def remove_all(self) -> None:
        """Remove the bridge and the nftables table. For tests and uninstalling: pods lose their network."""
        await self._table.uninstall()
        await self._in_thread(lambda: delete_soon(self._name), f"removing bridge {self._name}")

    # --- what all pods share -----------------------------------------------------------------------------------------

    async def _prepared(self, *, install: bool = True) -> Link:
        try:
            bridge, has_table = await self._in_thread(self._repair, f"setting up bridge {self._name}")
            if install:
                await self._table.ensure(has_table)
        except OcidError as error:
            self.fault = error.message
            raise
        self.fault = None
        return bridge

    def _repair(self) -> tuple[Link, bool]:
        """Bring the bridge to what it should be; return it, and whether the table is there."""
        with Netlink() as host:
            mtu = _uplink_mtu()
            bridge = host.link(self._name)
            if bridge is None:
                host.run(netlink.add_bridge(self._name, _mac("bridge", self._name), mtu))
                netsysctls.write("ipv6/conf", self._name, "accept_ra", "0")
                netsysctls.write("ipv6/conf", self._name, "accept_dad", "0")  # its link-local address works at once
                bridge = host.link(self._name)
            if bridge is None or bridge.kind != "bridge":
                raise OSError(errno.EEXIST, f"interface {self._name!r} is there, but is no bridge; rename one of them")
            missing = set(self._gateways) - host.addresses(bridge.index)
            if missing or not bridge.up or bridge.mtu != mtu:
                if any(address.version == 6 for address in missing):
                    netsysctls.write("ipv6/conf", self._name, "disable_ipv6", "0")
                changes = [netlink.add_address(bridge.index, address) for address in missing]
                host.run(netlink.set_link(self._name, up=True, mtu=mtu), *changes)
                bridge = host.link(self._name) or bridge
            if not self._routed:
                self._refuse_overlap(host, bridge)
                self._routed = True
            self._forward(host)
        return bridge, self._table.exists()

    def _refuse_overlap(self, host: Netlink, bridge: Link) -> None:
        """Make sure that packets to pods go to the bridge, and to nobody else with the same subnet."""
        for subnet in self._subnets:
            index = host.route_to(str(subnet.network_address + ipam.FIRST))
            if index not in (bridge.index, None):
                other = host.link_at(index)
                name = f"interface {other.name!r}" if other is not None else "another interface"
                raise OSError(errno.EADDRINUSE, f"subnet {subnet} is on {name}, too; configure another one")

    def _forward(self, host: Netlink) -> None:
        """Make the host forward packets of the IP versions that pods have."""
        for subnet in self._subnets:
            if subnet.version == 4:
                netsysctls.write("ipv4", "ip_forward", "", "1")
            elif netsysctls.read("ipv6/conf/all/forwarding") == "0":
                index = host.route_to(ELSEWHERE[1])
                uplink = None if index is None else host.link_at(index)  # many hosts have no IPv6 route
                if uplink is not None and netsysctls.read(f"ipv6/conf/{uplink.name}/accept_ra") == "1":
                    # A forwarding host ignores router advertisements unless told otherwise, and would soon lose
                    # the default route that it has from them. Source: kernel ip-sysctl.rst "accept_ra".
                    netsysctls.write("ipv6/conf", uplink.name, "accept_ra", "2")
                netsysctls.write("ipv6/conf", "all", "forwarding", "1")

    # --- one pod -----------------------------------------------------------------------------------------------------

    def _checked(self, order: NetworkOrder) -> tuple[Interface, ...]:
        """Return the order's addresses, or raise InvalidRequest."""
        if not 0 < len(order.interface.encode()) <= INTERFACE_BYTES_MAX:
            raise InvalidRequest(f"interface name {order.interface!r}: wanted 1 to {INTERFACE_BYTES_MAX} bytes")
        try:
            addresses = tuple(ipaddress.ip_interface(address) for address in order.addresses)
        except ValueError as error:
            raise InvalidRequest(f"pod {order.pod_id[:13]}: {error}") from None
        outside = [str(address) for address in addresses if address.network not in self._subnets]
        if outside or not addresses:
            wanted = ", ".join(self.subnets())
            raise InvalidRequest(f"pod {order.pod_id[:13]} has the addresses {outside}: wanted some of {wanted}")
        return addresses

    def _attach(self, order: NetworkOrder, addresses: Sequence[Interface], limits: Bandwidth, bridge: Link) -> None:
        try:
            netns = os.open(order.netns, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound("network namespace", order.netns) from None
        try:
            with Netlink() as host:
                self._pair(host, order, netns, bridge)
                shape(host, order.interface, limits)  # before the pod can say a word
                host.run(
                    netlink.set_port(order.interface),
                    *(netlink.forget_neighbour(bridge.index, address.ip) for address in addresses),
                )
                pod, index = inside(netns, lambda: self._entered(addresses))
                with pod:
                    self._configure(pod, index, addresses)
                    _settle(lambda: self._passes(host, order, bridge) and _operational(pod, index))
        finally:
            os.close(netns)

    def _pair(self, host: Netlink, order: NetworkOrder, netns: int, bridge: Link) -> None:
        """Make the veth pair, or adopt the one that an earlier attempt made."""
        if (index := index_of(order.interface)) is not None:
            link = host.link_at(index)
            if link is not None and link.kind == "veth" and inside(netns, _pod_peer) == index:
                host.run(netlink.set_link(order.interface, master=bridge.index))
                return
            delete_soon(order.interface)
        outer = _mac("host", order.pod_id)
        # The pod's own goes with its address: neighbours that still know the address's last pod need not learn anew.
        inner = _mac("pod", self._name, order.addresses[0])
        host.run(netlink.add_veth(order.interface, outer, bridge.mtu, bridge.index, POD_INTERFACE, inner, netns))

    def _passes(self, host: Netlink, order: NetworkOrder, bridge: Link) -> bool:
        """Say whether the host's end and the bridge pass packets, or are gone."""
        port = host.link(order.interface)
        if port is None or not port.forwarding:
            return port is None
        return bridge.operational or _operational(host, bridge.index)

    def _entered(self, addresses: Sequence[Interface]) -> tuple[Netlink, int]:
        """Set sysctls of the pod's end, in the pod's namespace; return a socket that stays there, and its index."""
        if any(address.version == 6 for address in addresses):
            netsysctls.write("ipv6/conf", POD_INTERFACE, "disable_ipv6", "0")
        # A pod must not be able to become its neighbours' router by advertising itself (CVE-2020-10749).
        netsysctls.write("ipv6/conf", POD_INTERFACE, "accept_ra", "0")
        index = index_of(POD_INTERFACE)
        if index is None:
            raise OSError(errno.ENODEV, f"interface {POD_INTERFACE} went away")
        return Netlink(), index

    def _configure(self, pod: Netlink, index: int, addresses: Sequence[Interface]) -> None:
        """Set up the pod's end."""
        gateways = {gateway.version: gateway.ip for gateway in self._gateways}
        pod.run(
            netlink.set_link("lo", up=True),
            *(netlink.add_address(index, address) for address in addresses),
            netlink.set_link(POD_INTERFACE, up=True),
            *(netlink.add_default_route(index, gateways[address.version]) for address in addresses),
        )

    async def _in_thread(self, work: Callable[[], T], doing: str) -> T:
        """Run blocking netlink work; what the kernel refuses becomes EffectFailed."""
        try:
            return await trio.to_thread.run_sync(work, limiter=self._threads)
        except OSError as error:
            raise EffectFailed(f"{doing}: {error.strerror or error}") from error


def _settle(passes: Callable[[], bool]) -> None:
    """Wait until packets pass: the kernel notices a new carrier in a work queue, and drops them until then."""
    end = time.monotonic() + SETTLE_S_MAX
    while not passes() and time.monotonic() < end:
        time.sleep(SETTLE_STEP_S)


def _operational(host: Netlink, index: int) -> bool:
    """Say whether an interface passes packets, or is gone."""
    link = host.link_at(index)
    return link is None or link.operational


def _pod_peer() -> int:
    """Return the index of the host end of this namespace's pod interface, 0 when there is none."""
    with Netlink() as pod:
        link = pod.link(POD_INTERFACE)
    return 0 if link is None else link.peer


def _uplink_mtu() -> int:
    """Return the MTU of the default route."""
    for destination, (family, level, option) in zip(ELSEWHERE, _MTU, strict=True):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as unsent:  # OSError: no route
            unsent.connect((destination, 9))  # only looks up the route
            return unsent.getsockopt(level, option)
    return MTU_DEFAULT


def _mac(*names: str) -> str:
    """Derive a locally administered unicast address, the same for the same names for ever."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")
