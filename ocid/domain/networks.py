"""Further networks of one pod, as its annotation names them. Pure: attaching is ``ocid.adapters.cni``.

The syntax is what users know from the annotation ``k8s.v1.cni.cncf.io/networks``: a list by commas, ``name``,
``name@interface`` or ``namespace/name@interface``, or a JSON list of objects. The key is our own, because multus, as a
plugin of the pod's first network, acts on the other one itself.

Source: Network Plumbing Working Group, "Kubernetes Network Custom Resource Definition De-facto Standard" 1.3, section
4.1; CNI CONVENTIONS.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from ocid.domain import cni
from ocid.domain.cni import NetworkList
from ocid.domain.configs import PortMapping, Protocol
from ocid.errors import InvalidRequest, Unsupported
from ocid.events.pod import FurtherNetwork

ANNOTATION: Final = "network.ocid/networks"
NETWORKS_MAX: Final = 8  # of one pod, beside its first one
NAME_BYTES_MAX: Final = 63  # of a network; all names of a pod are in one record of the log
ANNOTATION_BYTES_MAX: Final = 16 << 10
PORTS_MAX: Final = 256  # of one network
EVERY: Final = "*"  # in the list of networks that pods may ask for
FIRST_INTERFACE: Final = "eth0"

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_INTERFACE: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-]{0,14}")  # IFNAMSIZ is 16
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_RATES: Final = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")  # bits per second, and bits
_RATE_MAX: Final = (1 << 63) - 1
_KEYS: Final = ("name", "namespace", "interface", "ips", "mac", "portMappings", "bandwidth", "default-route")
_PORT_KEYS: Final = ("hostPort", "containerPort", "protocol", "hostIP")
_SHOWN_MAX: Final = 100


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One further network that a pod asks for, and what its plugins are to be told."""

    network: str
    interface: str  # in the pod
    ips: tuple[str, ...] = ()  # CIDRs that it wants to have
    mac: str = ""
    ports: tuple[PortMapping, ...] = ()  # published through this network's plugins
    bandwidth: Mapping[str, int] = {}  # as the plugin "bandwidth" has them


def wishes(annotations: Mapping[str, str]) -> tuple[Wish, ...]:
    """Return the further networks of a pod, in the order of their attaching.

    Raises:
        InvalidRequest: the annotation is malformed, too long, or names an interface twice.
        Unsupported: a network is to bring the default route.
    """
    text = annotations.get(ANNOTATION, "").strip()
    if not text:
        return ()
    if len(text.encode()) > ANNOTATION_BYTES_MAX:
        raise _refusal(f"has {len(text.encode())} bytes, the limit is {ANNOTATION_BYTES_MAX}")
    entries = _json(text) if text.startswith("[") else [_short(one.strip()) for one in text.split(",")]
    if len(entries) > NETWORKS_MAX:
        raise _refusal(f"names {len(entries)} networks, the limit is {NETWORKS_MAX}")
    found = tuple(_wish(entry, place) for place, entry in enumerate(entries, start=1))
    taken = {FIRST_INTERFACE, "lo"}
    for wish in found:
        if wish.interface in taken:
            raise _refusal(f"gives the interface {wish.interface!r} twice, or to another network than the pod's first")
        taken.add(wish.interface)
    return found


def named(found: Sequence[Wish]) -> tuple[FurtherNetwork, ...]:
    """Return what the log says of them before any is attached."""
    return tuple(FurtherNetwork(name=wish.network, interface=wish.interface) for wish in found)


def declared(annotations: Mapping[str, str], names: Sequence[FurtherNetwork]) -> tuple[Wish, ...]:
    """Return the wishes that were declared, so that what is undone is what was named."""
    if not names:
        return ()
    known: dict[tuple[str, str], Wish] = {}
    with suppress(InvalidRequest, Unsupported):  # an older version took it: what that made can still be undone
        known = {(wish.network, wish.interface): wish for wish in wishes(annotations)}
    return tuple(known.get((one.name, one.interface), Wish(network=one.name, interface=one.interface)) for one in names)


def every(files: Mapping[str, bytes]) -> dict[str, NetworkList]:
    """Return all valid networks by name; of two with one name, the first by file name."""
    found: dict[str, NetworkList] = {}
    for file in sorted(name for name in files if name.endswith(cni.SUFFIXES))[: cni.FILES_MAX]:
        try:
            network = cni.parse(file, files[file])
        except InvalidRequest:
            continue  # ``cni.choose`` says what is wrong with it, if it comes before the first valid one
        found.setdefault(network.name, network)
    return found


def may_have(name: str, allowed: Sequence[str]) -> bool:
    """Say whether pods may ask for this network at all."""
    return EVERY in allowed or name in allowed


def capability_arguments(network: NetworkList, wish: Wish, annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return what plugins that declare a capability are told; what no plugin can do is refused.

    Raises:
        InvalidRequest: no plugin of the network declares what the wish needs.
    """
    told: dict[str, Any] = {}
    if wish.ips:
        told["ips"] = list(wish.ips)
    if wish.mac:
        told["mac"] = wish.mac
    if wish.ports:
        told["portMappings"] = [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.value.lower(),
                "hostIP": port.host_ip,
            }
            for port in wish.ports
        ]
    if wish.bandwidth:
        told["bandwidth"] = dict(wish.bandwidth)
    declared = {capability for plugin in network.plugins for capability in plugin.capabilities}
    for key in told:
        if key not in declared:
            raise InvalidRequest(f"{ANNOTATION}: no plugin of CNI network {network.name!r} has the capability {key!r}")
    return {**told, "io.kubernetes.cri.pod-annotations": dict(annotations)} if annotations else told


# --- reading one -----------------------------------------------------------------------------------------------------


def _refusal(fault: str) -> InvalidRequest:
    return InvalidRequest(f"annotation {ANNOTATION} {fault}")


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_MAX]


def _short(text: str) -> dict[str, Any]:
    """Read ``[namespace/]name[@interface]``."""
    where, at, interface = text.partition("@")
    namespace, slash, name = where.rpartition("/")
    if not name or (slash and not namespace) or (at and not interface):
        raise _refusal(f"has {_shown(text)}: wanted 'name', 'name@interface' or 'namespace/name@interface'")
    entry = {"name": name, "namespace": namespace, "interface": interface}
    return {key: value for key, value in entry.items() if value}


def _json(text: str) -> list[dict[str, Any]]:
    try:
        entries = msgspec.json.decode(text, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(f"is no JSON list of objects: {error}") from None
    for entry in entries:
        unknown = [key for key in entry if key not in _KEYS]
        if unknown:
            raise _refusal(f"has the key {_shown(unknown[0])}: wanted {', '.join(_KEYS)}")
    return entries


def _wish(entry: Mapping[str, Any], place: int) -> Wish:
    if entry.get("default-route"):
        raise Unsupported(f"annotation {ANNOTATION}: default-route is not supported: the default route is eth0's")
    name, interface = entry.get("name"), entry.get("interface") or f"net{place}"
    if not isinstance(name, str) or len(name) > NAME_BYTES_MAX or _NAME.fullmatch(name) is None:
        raise _refusal(f"names {_shown(name)}: wanted a CNI network of at most {NAME_BYTES_MAX} characters")
    namespace = entry.get("namespace", "default")  # the node's networks are in none: any is right
    if not isinstance(namespace, str) or _NAMESPACE.fullmatch(namespace) is None:
        raise _refusal(f"has the namespace {_shown(namespace)}: wanted a DNS label")
    if not isinstance(interface, str) or _INTERFACE.fullmatch(interface) is None:
        raise _refusal(f"has the interface {_shown(interface)}: wanted a letter, then at most 14 more characters")
    return Wish(
        network=name,
        interface=interface,
        ips=_ips(entry.get("ips", [])),
        mac=_mac(entry.get("mac", "")),
        ports=_ports(entry.get("portMappings", [])),
        bandwidth=_bandwidth(entry.get("bandwidth", {})),
    )


def _ips(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) > cni.ADDRESSES_MAX:
        raise _refusal(f"has ips {_shown(given)}: wanted a list of at most {cni.ADDRESSES_MAX} CIDRs")
    try:
        if not all(isinstance(one, str) and "%" not in one for one in given):
            raise ValueError
        return tuple(str(ipaddress.ip_interface(one)) for one in given)
    except ValueError:
        raise _refusal(f"has ips {_shown(given)}: wanted CIDRs such as '10.1.2.3/16'") from None


def _mac(given: object) -> str:
    if given == "":
        return ""
    if not isinstance(given, str) or _MAC.fullmatch(given) is None or int(given[:2], 16) & 1:
        raise _refusal(f"has mac {_shown(given)}: wanted a unicast address '02:…'")
    return given


def _ports(given: object) -> tuple[PortMapping, ...]:
    if not isinstance(given, list) or len(given) > PORTS_MAX:
        raise _refusal(f"has portMappings {_shown(given)}: wanted a list of at most {PORTS_MAX}")
    return tuple(_port(one) for one in given)


def _port(given: object) -> PortMapping:
    if not isinstance(given, dict) or set(given) - set(_PORT_KEYS):
        raise _refusal(f"has a port {_shown(given)}: wanted an object with {', '.join(_PORT_KEYS)}")
    numbers = [given.get(key) for key in ("hostPort", "containerPort")]
    if not all(type(number) is int and 0 < number < 1 << 16 for number in numbers):
        raise _refusal(f"has a port {_shown(given)}: wanted hostPort and containerPort from 1 to 65535")
    protocol, host_ip = given.get("protocol", "tcp"), given.get("hostIP", "")
    try:
        if not isinstance(host_ip, str) or not isinstance(protocol, str):
            raise ValueError
        address = str(ipaddress.ip_address(host_ip)) if host_ip else ""
        kind = Protocol(protocol.upper())
    except ValueError:
        raise _refusal(f"has a port {_shown(given)}: wanted tcp, udp or sctp, and an address") from None
    return PortMapping(
        protocol=kind, host_port=given["hostPort"], container_port=given["containerPort"], host_ip=address
    )


def _bandwidth(given: object) -> dict[str, int]:
    if not isinstance(given, dict) or set(given) - set(_RATES):
        raise _refusal(f"has bandwidth {_shown(given)}: wanted an object with {', '.join(_RATES)}")
    if not all(type(value) is int and 0 < value <= _RATE_MAX for value in given.values()):
        raise _refusal(f"has bandwidth {_shown(given)}: wanted bits per second as whole numbers")
    return dict(given)
