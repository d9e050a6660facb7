"""Host ports of pods on CNI networks whose plugins do not map ports: led to the pods by the daemon's own table."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ocid.adapters import netsysctls
from ocid.adapters.netlink import Netlink
from ocid.adapters.nftables import Table
from ocid.domain.hostports import HostPort, host_ports, wanted
from ocid.errors import EffectFailed
from ocid.ports import NetworkOrder


class Published:
    """Publishes host ports through *table*. Raises what its methods do, and EffectFailed."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def publish(self, order: NetworkOrder, addresses: Sequence[str]) -> None:
        """Lead the pod's host ports to *addresses*.

        Raises:
            InvalidRequest: a port mapping cannot be.
            AlreadyExists: another pod has one of the ports.
        """
        ports = await self.ports_of(order, addresses)
        if ports:
            await self._table.ensure(await trio.to_thread.run_sync(self._table.exists))
            await self._table.add(order.pod_id, ports)
            if ports[0].device:  # 127.0.0.1:<host port>; the table guards it
                netsysctls.write("ipv4/conf", ports[0].device, "route_localnet", "1")

    async def ports_of(self, order: NetworkOrder, addresses: Sequence[str]) -> tuple[HostPort, ...]:
        """Return the host ports that lead to *addresses*, with the interface that leads there now."""
        if not addresses or not wanted(order.port_mappings):
            return ()
        try:
            device = await trio.to_thread.run_sync(_device_to, tuple(addresses))
        except OSError as error:
            raise EffectFailed(f"looking for the way to pod {order.pod_id[:13]}: {error.strerror}") from error
        return host_ports(order.pod_id, addresses, order.port_mappings, device)


def _device_to(addresses: Sequence[str]) -> str:
    """Return the host's interface that packets to a pod leave by; "" where the host has no way to it but by others.

    An interface with the host's default route leads to everybody: it is neither guarded nor let pass 127.0.0.1.
    """
    with Netlink() as host:
        defaults = {host.route_to(elsewhere) for elsewhere in ("8.8.8.8", "2001:4860:4860::8888")}
        for address in addresses:
            index = host.route_to(address.partition("/")[0])
            link = None if index is None or index in defaults else host.link_at(index)
            if link is not None and link.name != "lo":
                return link.name
    return ""
