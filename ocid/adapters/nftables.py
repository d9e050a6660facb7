"""The nftables table of a built-in network: masquerade and host ports, one table of its own for each bridge.

The table is written as a whole in one transaction, so nothing can leak into it or out of it; host ports are elements
of its maps, tagged with their pod's id, so that a pod costs one transaction of a few elements. The table lives on when
the daemon dies, and is read back once when it returns.

Other tables are never touched. A firewall of the host that drops forwarded packets keeps dropping them: in nftables no
table can accept what another one drops.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import trio

from ocid.adapters import netlink
from ocid.adapters.netlink import Netlink
from ocid.domain.configs import PortMapping
from ocid.domain.ipam import Subnet
from ocid.errors import AlreadyExists, EffectFailed, InvalidRequest, Unavailable, Unsupported, tail

NFT_S_MAX: Final = 30  # a transaction takes milliseconds; a ruleset of 100,000 rules of others takes seconds to read
_BRIDGE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,14}")


class HostPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the host that leads to a pod."""

    pod_id: str
    protocol: str  # "tcp", "udp" or "sctp"
    host_ip: str  # "" for every local address of the IP version
    host_port: int
    address: str  # the pod's
    container_port: int

    @property
    def key(self) -> tuple[int, str, str, int]:
        """What no two host ports may share: IP version, host address, protocol and port."""
        return ipaddress.ip_address(self.address).version, self.host_ip, self.protocol, self.host_port


def host_ports(pod_id: str, addresses: Iterable[str], mappings: Iterable[PortMapping]) -> tuple[HostPort, ...]:
    """Return the host ports that a pod with these addresses asks for; mappings without host port ask for none.

    Raises:
        InvalidRequest: a port is out of range, or a host address is malformed.
    """
    found: list[HostPort] = []
    pods = [ipaddress.ip_interface(address).ip for address in addresses]
    for mapping in mappings:
        if mapping.host_port == 0:
            continue
        if not (0 < mapping.host_port < 65536 and 0 < mapping.container_port < 65536):
            raise InvalidRequest(f"host port {mapping.host_port} to {mapping.container_port}: wanted 1 to 65535")
        try:
            host = ipaddress.ip_address(mapping.host_ip) if mapping.host_ip else None
        except ValueError:
            raise InvalidRequest(f"host address {mapping.host_ip!r} of a port mapping is no IP address") from None
        if "%" in mapping.host_ip:  # a zone may hold anything, and what is written here is read as a rule
            raise InvalidRequest(f"host address {mapping.host_ip!r} of a port mapping has a zone: wanted none")
        found += [
            HostPort(
                pod_id=pod_id,
                protocol=mapping.protocol.value.lower(),
                host_ip="" if host is None or host.is_unspecified else str(host),
                host_port=mapping.host_port,
                address=str(pod),
                container_port=mapping.container_port,
            )
            for pod in pods
            if host is None or host.version == pod.version
        ]
    return tuple(found)


class Table:
    """The table of one bridge. Every method is one transaction, or none when nothing changes.

    Calls must not overlap; ``ocid.adapters.bridge`` sees to it.

    Raises:
        InvalidRequest: from the constructor: the bridge's name would not do in a ruleset.
        EffectFailed: from every async method: nft refused; its words are in the message.
        Unsupported: there is no nft.
        Unavailable: nft did not end within 30 s.
    """

    def __init__(self, bridge: str, subnets: Sequence[Subnet], nft: str = "nft") -> None:
        if _BRIDGE.fullmatch(bridge) is None:
            raise InvalidRequest(f"bridge name {bridge!r}: wanted a letter, then at most 14 letters, digits and '_'")
        self.name = f"ocid_{bridge}"
        self._bridge = bridge
        self._subnets = tuple(subnets)
        self._nft = nft
        self._ports: dict[tuple[int, str, str, int], HostPort] | None = None  # None: not read yet

    def exists(self) -> bool:
        """Ask the kernel whether the table is there; takes microseconds."""
        with Netlink(netlink.NETFILTER) as socket:
            return socket.has_table(self.name)

    async def install(self) -> None:
        """Write the whole table with the host ports known so far, in place of what is there."""
        ports = await self._known()
        await self._run(self.ruleset(ports.values()))

    async def replace(self, ports: Iterable[HostPort]) -> None:
        """Write the whole table with exactly these host ports."""
        self._ports = {port.key: port for port in ports}
        await self._run(self.ruleset(self._ports.values()))

    async def add(self, pod_id: str, ports: Sequence[HostPort]) -> None:
        """Lead *ports* to the pod, and no others.

        Raises:
            AlreadyExists: another pod has one of them.
        """
        known = await self._known()
        for port in ports:
            owner = known.get(port.key)
            if owner is not None and owner.pod_id != pod_id:
                name = f"host port {port.host_port}/{port.protocol}"
                raise AlreadyExists(f"{name} is taken by pod {owner.pod_id[:13]}; stop that pod first")
        before = [port for port in known.values() if port.pod_id == pod_id]
        if set(before) == set(ports):
            return
        rest = {key: port for key, port in known.items() if port.pod_id != pod_id}
        await self._run(self._elements("delete", before, rest.values()) + self._elements("add", ports))
        self._ports = rest | {port.key: port for port in ports}

    async def remove(self, pod_id: str) -> None:
        """Lead no port to the pod any more; none is fine."""
        known = await self._known()
        gone = [port for port in known.values() if port.pod_id == pod_id]
        if not gone:
            return
        rest = {key: port for key, port in known.items() if port.pod_id != pod_id}
        if self.exists():
            await self._run(self._elements("delete", gone, rest.values()))
        self._ports = rest

    async def uninstall(self) -> None:
        """Remove the table; none is fine."""
        await self._run(f"add table inet {self.name}\ndelete table inet {self.name}\n")
        self._ports = {}

    def ruleset(self, ports: Iterable[HostPort]) -> str:
        """Return the transaction that puts the whole table in place."""
        masquerade: list[str] = []
        for subnet in self._subnets:
            ip, local, group = (
                ("ip", "127.0.0.0/8", "224.0.0.0/4") if subnet.version == 4 else ("ip6", "::1", "ff00::/8")
            )
            masquerade.append(f"{ip} saddr {subnet} {ip} daddr != {{ {subnet}, {group} }} masquerade")
            masquerade += [
                f"ct status dnat meta l4proto {protocol} ct original proto-dst @{protocol}_ports "
                f"{ip} saddr {{ {subnet}, {local} }} {ip} daddr {subnet} masquerade"
                for protocol in ("tcp", "udp", "sctp")
            ]
        rules = _TEMPLATE.format(table=self.name, bridge=self._bridge, masquerade="\n    ".join(masquerade))
        return rules + self._elements("add", ports)

    def _elements(self, verb: str, ports: Iterable[HostPort], rest: Iterable[HostPort] = ()) -> str:
        """Return the commands that add or delete the elements of *ports*; those that *rest* shares are kept."""
        shared = {(port.protocol, port.host_port) for port in rest}
        sets: dict[str, dict[str, None]] = {}
        for port in ports:
            if (port.protocol, port.host_port) not in shared:
                sets.setdefault(f"{port.protocol}_ports", {})[str(port.host_port)] = None
            tag = f' comment "{port.pod_id}"' if verb == "add" else ""
            key, name = f"{port.protocol} . {port.host_port}", f"ports{port.key[0]}"
            if port.host_ip:
                key, name = f"{port.host_ip} . {key}", f"{name}_at"
            sets.setdefault(name, {})[f"{key}{tag} : {port.address} . {port.container_port}"] = None
        return "".join(f"{verb} element inet {self.name} {name} {{ {', '.join(sets[name])} }}\n" for name in sets)

    async def _known(self) -> dict[tuple[int, str, str, int], HostPort]:
        """Return the host ports in the table, read from the kernel the first time."""
        if self._ports is None:
            listed = await self._run("", "-j", "list", "table", "inet", self.name) if self.exists() else b"{}"
            self._ports = {port.key: port for port in _listed(json.loads(listed))}
        return self._ports

    async def _run(self, text: str, *arguments: str) -> bytes:
        """Run nft with *text* as one transaction, or with other arguments, and return its output."""
        command = [self._nft, *(arguments or ("-f", "-"))]
        try:
            with trio.fail_after(NFT_S_MAX, shield=True):  # so that memory and kernel always agree
                done = await trio.run_process(
                    command, stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False
                )
        except trio.TooSlowError as error:
            raise Unavailable(f"writing table {self.name}: nft did not end within {NFT_S_MAX} s") from error
        except FileNotFoundError as error:
            raise Unsupported(f"no {self._nft!r} on this host: install nftables, or configure a CNI network") from error
        if done.returncode != 0:
            said = tail(done.stderr) or f"nothing, and ends with {done.returncode}"
            raise EffectFailed(f"writing table {self.name}: nft says {said!r}")
        return bytes(done.stdout)


def _listed(document: dict[str, Any]) -> Iterable[HostPort]:
    """Read the host ports out of ``nft -j list table``; elements of another form are not ours, and are passed over."""
    for item in document.get("nftables", []):
        held = item.get("map", {})
        if not str(held.get("name", "")).startswith("ports"):
            continue
        for key, value in held.get("elem", []):
            *host, protocol, port = key["elem"]["val"]["concat"]
            address, container_port = value["concat"]
            yield HostPort(
                pod_id=key["elem"]["comment"],
                protocol=protocol,
                host_ip=host[0] if host else "",
                host_port=port,
                address=address,
                container_port=container_port,
            )


_TEMPLATE: Final = """add table inet {table}
delete table inet {table}
table inet {table} {{
  set tcp_ports {{ type inet_service; }}
  set udp_ports {{ type inet_service; }}
  set sctp_ports {{ type inet_service; }}
  map ports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map ports4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
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
