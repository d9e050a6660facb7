"""Host ports: which ones a pod asks for, whose they are, and the nftables table that leads them to pods. Pure.

The table of one daemon is ``inet ocid_<bridge>``. Host ports are elements of its maps, keyed by protocol and port (and
host address), so a packet costs two look-ups however many pods there are, and a pod costs one transaction of a few
elements. Each element is tagged with its pod's id and the interface that leads to the pod.

A packet from a pod's neighbours, or from the pod itself, is masqueraded, and so is one from 127.0.0.1: the answer would
not pass through the node otherwise. Of every interface in the table, packets from and to 127.0.0.0/8 are dropped,
because 127.0.0.1 can only be led to pods where the kernel lets such packets pass ("route_localnet").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ocid.domain.configs import PortMapping
from ocid.domain.ipam import Subnet
from ocid.errors import AlreadyExists, InvalidRequest

Key = tuple[int, str, str, int]  # IP version, host address, protocol, port

PROTOCOLS: Final = ("tcp", "udp", "sctp")


class HostPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the host that leads to a pod."""

    pod_id: str
    protocol: str  # one of PROTOCOLS
    host_ip: str  # "" for every local address of the IP version
    host_port: int
    address: str  # the pod's
    container_port: int
    device: str = ""  # the host's interface that leads to the pod; "" for the built-in bridge
    near: str = ""  # CIDR of those whom the pod answers without the node; "" for the built-in subnets

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def key(self) -> Key:
        """What no two host ports may share."""
        return self.version, self.host_ip, self.protocol, self.host_port


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a table leads where, beside the built-in network's own rules."""

    ports: Mapping[Key, HostPort] = {}
    devices: tuple[str, ...] = ()  # of CNI networks; guarded as long as they are there, ports or not

    def of(self, pod_id: str) -> tuple[HostPort, ...]:
        """Return one pod's."""
        return tuple(port for port in self.ports.values() if port.pod_id == pod_id)

    def without(self, pod_id: str) -> Mapping[Key, HostPort]:
        """Return all but one pod's."""
        return {key: port for key, port in self.ports.items() if port.pod_id != pod_id}


def wanted(mappings: Iterable[PortMapping]) -> bool:
    """Say whether any of a pod's port mappings asks for a host port."""
    return any(mapping.host_port for mapping in mappings)


def host_ports(
    pod_id: str, addresses: Iterable[str], mappings: Iterable[PortMapping], device: str | None = None
) -> tuple[HostPort, ...]:
    """Return the host ports that a pod with these addresses asks for; mappings without host port ask for none.

    A mapping for a host address of an IP version that the pod lacks leads nowhere, and is left out.

    Args:
        addresses: the pod's, with or without prefix length; the first one of each IP version counts.
        device: the host's interface that leads to the pod, "" for one that nobody knows; None for the built-in bridge.
    Raises:
        InvalidRequest: a port is out of range, a host address is malformed, or one host port is to lead to two ports.
    """
    pods: dict[int, ipaddress.IPv4Interface | ipaddress.IPv6Interface] = {}
    for address in addresses:
        interface = ipaddress.ip_interface(address)
        pods.setdefault(interface.version, interface)
    found: dict[Key, HostPort] = {}
    for mapping in mappings:
        if mapping.host_port == 0:
            continue
        host = _host_address(mapping)
        for version, pod in pods.items():
            if host is not None and host.version != version:
                continue
            port = HostPort(
                pod_id=pod_id,
                protocol=mapping.protocol.value.lower(),
                host_ip="" if host is None or host.is_unspecified else str(host),
                host_port=mapping.host_port,
                address=str(pod.ip),
                container_port=mapping.container_port,
                device=device or "",
                near="" if device is None else str(pod.network),
            )
            if found.setdefault(port.key, port) != port:
                name = f"host port {port.host_port}/{port.protocol}"
                wanted = f"{found[port.key].container_port} and {port.container_port}"
                raise InvalidRequest(f"{name} is to lead to the container ports {wanted}: wanted one of them")
    return tuple(found.values())


def _host_address(mapping: PortMapping) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not (0 < mapping.host_port < 65536 and 0 < mapping.container_port < 65536):
        raise InvalidRequest(f"host port {mapping.host_port} to {mapping.container_port}: wanted 1 to 65535")
    if "%" in mapping.host_ip:
        raise InvalidRequest(f"host address {mapping.host_ip[:64]!r} of a port mapping has a zone: wanted none")
    try:
        return ipaddress.ip_address(mapping.host_ip) if mapping.host_ip else None
    except ValueError:
        raise InvalidRequest(f"host address {mapping.host_ip[:64]!r} of a port mapping is no IP address") from None


def refuse_taken(held: Held, ports: Collection[HostPort]) -> None:
    """Make sure that no other pod has one of *ports*. A port of every address is that port of each address, too.

    Raises:
        AlreadyExists: another pod has; the message names it.
    """
    wanted: dict[tuple[int, str, int], list[HostPort]] = {}
    for port in ports:
        wanted.setdefault((port.version, port.protocol, port.host_port), []).append(port)
    for taken in held.ports.values():
        for port in wanted.get((taken.version, taken.protocol, taken.host_port), ()):
            if taken.pod_id != port.pod_id and (taken.host_ip == port.host_ip or "" in (taken.host_ip, port.host_ip)):
                at = f"{f'[{port.host_ip}]' if ':' in port.host_ip else port.host_ip or '*'}:{port.host_port}"
                raise AlreadyExists(
                    f"host port {at}/{port.protocol} is taken by pod {taken.pod_id[:13]}; stop that pod first"
                )


# --- nft's language ---------------------------------------------------------------------------------------------------


def ruleset(table: str, bridge: str, subnets: Sequence[Subnet], held: Held) -> str:
    """Return the transaction that puts the whole table in place, whatever is there."""
    masquerade: list[str] = []
    for subnet in subnets:
        ip, group = ("ip", "224.0.0.0/4") if subnet.version == 4 else ("ip6", "ff00::/8")
        masquerade.append(f"{ip} saddr {subnet} {ip} daddr != {{ {subnet}, {group} }} masquerade")
    for protocol in PROTOCOLS:
        ours = f"ct status dnat meta l4proto {protocol} ct original proto-dst @{protocol}_ports"
        for subnet in subnets:
            ip = "ip" if subnet.version == 4 else "ip6"
            masquerade.append(f"{ours} {ip} saddr {subnet} {ip} daddr {subnet} masquerade")
        masquerade += [
            f"{ours} ip saddr . ip daddr @near4 masquerade",
            f"{ours} ip6 saddr . ip6 daddr @near6 masquerade",
            f"{ours} ip saddr 127.0.0.0/8 oifname @guarded masquerade",
        ]
    rules = _TEMPLATE.format(table=table, masquerade="\n    ".join(masquerade))
    return rules + devices(table, "add", (bridge, *held.devices)) + elements(table, "add", held.ports.values())


def devices(table: str, verb: str, names: Iterable[str]) -> str:
    """Return the commands that add interfaces to the guarded ones, or ``delete`` them."""
    quoted = [f'"{name}"' for name in dict.fromkeys(names)]
    if not quoted:
        return ""
    return f"{verb} element inet {table} guarded {{ {', '.join(quoted)} }}\n"


def elements(table: str, verb: str, ports: Iterable[HostPort], rest: Iterable[HostPort] = ()) -> str:
    """Return the commands that ``add`` or ``delete`` the elements of *ports*; those that *rest* shares are kept."""
    shared = {(port.protocol, port.host_port) for port in rest}
    sets: dict[str, dict[str, None]] = {}
    for port in ports:
        if (port.protocol, port.host_port) not in shared:
            sets.setdefault(f"{port.protocol}_ports", {})[str(port.host_port)] = None
        if port.near:
            sets.setdefault(f"near{port.version}", {})[f"{port.near} . {port.address}"] = None
        about = f"{port.pod_id} {port.device or '-'} {port.near}" if port.near else port.pod_id
        tag = f' comment "{about}"' if verb == "add" else ""
        key, name = f"{port.protocol} . {port.host_port}", f"ports{port.version}"
        if port.host_ip:
            key, name = f"{port.host_ip} . {key}", f"{name}_at"
        sets.setdefault(name, {})[f"{key}{tag} : {port.address} . {port.container_port}"] = None
    return "".join(f"{verb} element inet {table} {name} {{ {', '.join(sets[name])} }}\n" for name in sets)


def listed(document: Mapping[str, Any], bridge: str) -> Held:
    """Read ``nft -j list table``; elements of another form than ours are passed over."""
    ports: dict[Key, HostPort] = {}
    guarded: list[str] = []
    for item in document.get("nftables", []):
        of_set = item.get("set", {})
        if of_set.get("name") == "guarded":
            guarded = [name for name in of_set.get("elem", []) if isinstance(name, str) and name != bridge]
        held = item.get("map", {})
        if not str(held.get("name", "")).startswith("ports"):
            continue
        for key, value in held.get("elem", []):
            port = _listed_port(key, value)
            if port is not None:
                ports[port.key] = port
    return Held(ports=ports, devices=tuple(guarded))


def _listed_port(key: Any, value: Any) -> HostPort | None:
    """Read one element of a map; None for one that somebody else has put there."""
    try:
        *host, protocol, number = key["elem"]["val"]["concat"]
        address, container_port = value["concat"]
        pod_id, *way = key["elem"]["comment"].split(" ")
        found = {
            "pod_id": pod_id,
            "protocol": protocol,
            "host_ip": host[0] if host else "",
            "host_port": number,
            "address": address,
            "container_port": container_port,
            "device": way[0].removeprefix("-") if way else "",
            "near": way[1] if len(way) > 1 else "",
        }
        return msgspec.convert(found, HostPort)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError):
        return None


_TEMPLATE: Final = """add table inet {table}
delete table inet {table}
table inet {table} {{
  set tcp_ports {{ type inet_service; }}
  set udp_ports {{ type inet_service; }}
  set sctp_ports {{ type inet_service; }}
  set guarded {{ type ifname; }}
  set near4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
  set near6 {{ type ipv6_addr . ipv6_addr; flags interval; }}
  map ports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map ports4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname @guarded ip saddr 127.0.0.0/8 drop
    iifname @guarded ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump to_pods
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump to_pods
  }}
  chain to_pods {{
    meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @ports4_at
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4
    meta nfproto ipv6 ip6 daddr != ::1 dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6_at
    meta nfproto ipv6 ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @ports6
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {masquerade}
  }}
}}
"""
