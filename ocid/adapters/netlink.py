"""Requests to the kernel's network configuration: pyroute2's messages, many of them in one system call.

pyroute2 encodes, decodes and names everything. Its IPRoute is not used, because it drives an asyncio loop for each
request: attaching a pod would take 1.6 times as long. Its messages travel over a plain blocking socket instead.

Importing pyroute2 costs 0.1 s and 10 MiB, so it waits until the first socket is opened or request is made: a node
without the built-in network never pays.

A socket belongs to the network namespace of the thread that opened it, for ever. The kernel answers a request before
``send`` returns, so nothing here waits for anything but the kernel's own locks.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

ANSWER_BYTES_MAX: Final = 1 << 18  # one datagram of a dump; the kernel sends at most 32 KiB
ANSWER_S_MAX: Final = 30  # the kernel answers at once, or it is waiting for its own locks
NETFILTER: Final = 12  # NETLINK_NETFILTER
BRIDGE_FORWARDING: Final = 3  # BR_STATE_FORWARDING, linux/if_bridge.h


class Refused(OSError):
    """The kernel refused a request; ``strerror`` holds its words, ``errno`` the code."""


class Request(NamedTuple):
    """One message to the kernel, and the refusals that count as success."""

    what: str  # for the error message: "adding address 10.88.0.2/16 to eth0"
    type: str  # as the kernel calls it: "RTM_NEWLINK"
    flags: str  # likewise, "CREATE EXCL" for NLM_F_CREATE | NLM_F_EXCL
    fields: dict[str, Any]  # of pyroute2's class for this type of message
    fine: frozenset[int] = frozenset()  # errno values


@dataclass(frozen=True, slots=True)
class Link:
    """What the kernel says about an interface."""

    index: int
    name: str
    kind: str  # "veth", "bridge"; "" for hardware
    up: bool
    mtu: int
    peer: int  # index of the other end of a veth pair, in that end's namespace; 0 for none
    operational: bool  # up, has a carrier, and its queue takes packets. RFC 2863 ifOperStatus
    forwarding: bool  # a bridge port that passes packets


class Netlink:
    """A netlink socket in the namespace of the thread that opens it. Use as a context manager.

    Raises:
        Refused: from every method, when the kernel refuses a request.
    """

    def __init__(self) -> None:
        known = _pyroute2().netlink
        self._types, self._marshal = vars(known.rtnl), known.rtnl.marshal.MarshalRtnl()
        self._sequence = 0
        self._socket = _open(socket.NETLINK_ROUTE, ANSWER_S_MAX)
        self._socket.setsockopt(known.SOL_NETLINK, known.NETLINK_EXT_ACK, 1)  # words with errors
        self._socket.setsockopt(known.SOL_NETLINK, known.NETLINK_GET_STRICT_CHK, 1)  # dumps filter in the kernel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, *requests: Request) -> None:
        """Make the kernel do all *requests* in this order, in one system call; raise the first refusal.

        It does the others too. It says so of refusals, and of the last request: so one answer is enough.
        """
        *others, last = requests
        self._ask(*others, last._replace(flags=f"{last.flags} ACK"))

    def _ask(self, *requests: Request) -> list[Any]:
        """Send *requests* in one system call, and return the messages that answer the last, a question or a dump."""
        known = _pyroute2().netlink
        first = self._sequence + 1
        self._socket.send(b"".join(self._encoded(request) for request in requests))
        answers: list[Any] = []
        failures: list[Refused] = []
        while True:
            for message in self._received():
                header = message["header"]
                number = header["sequence_number"] - first
                if number < 0:
                    continue
                failure = _failure(requests[number], header["error"])
                if failure is not None:
                    failures.append(failure)
                ends = header["type"] in (known.NLMSG_ERROR, known.NLMSG_DONE)
                if not ends:
                    answers.append(message)
                if number == len(requests) - 1 and (ends or not header["flags"] & known.NLM_F_MULTI):
                    if failures:
                        raise failures[0]
                    return answers

    def _encoded(self, request: Request) -> bytes:
        self._sequence += 1
        kind = self._types[request.type]
        flags = [getattr(_pyroute2().netlink, f"NLM_F_{name}") for name in ("REQUEST", *request.flags.split())]
        message = self._marshal.msg_map[kind]()
        message.update(request.fields)
        message["header"] = {"type": kind, "flags": sum(flags), "sequence_number": self._sequence}
        message.encode()
        return bytes(message.data)

    def _received(self) -> Iterator[Any]:
        """Receive the next datagram's messages."""
        try:
            datagram = self._socket.recv(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise Refused(errno.ETIMEDOUT, f"the kernel did not answer within {ANSWER_S_MAX} s") from None
        yield from self._marshal.parse(datagram)

    # --- questions ---------------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        """Return the interface called *name*, or None."""
        return self._link(f"looking for interface {name}", {"attrs": [("IFLA_IFNAME", name)]})

    def link_at(self, index: int) -> Link | None:
        """Return the interface with this number, or None."""
        return self._link(f"looking for interface {index}", {"index": index})

    def _link(self, what: str, fields: dict[str, Any]) -> Link | None:
        answers = self._ask(Request(what, "RTM_GETLINK", "", fields, frozenset({errno.ENODEV})))
        return _link_of(answers[0]) if answers else None

    def addresses(self, index: int) -> frozenset[Interface]:
        """Return the addresses of an interface with their prefix lengths."""
        answers = self._ask(Request("listing addresses", "RTM_GETADDR", "DUMP", {"index": index}))
        found: set[Interface] = set()
        for answer in answers:
            fields = {slot.name: slot for slot in answer["attrs"]}
            address = fields.get("IFA_LOCAL") or fields.get("IFA_ADDRESS")
            if address is not None and answer["index"] == index:
                found.add(ipaddress.ip_interface(f"{address.value}/{answer['prefixlen']}"))
        return frozenset(found)

    def route_to(self, destination: str) -> int | None:
        """Return the index of the interface that packets to *destination* leave by, or None when there is no route."""
        address = ipaddress.ip_address(destination)
        fields = {"family": _family(address), "dst_len": address.max_prefixlen, "attrs": [("RTA_DST", destination)]}
        fine = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT})
        answers = self._ask(Request(f"looking for the route to {destination}", "RTM_GETROUTE", "", fields, fine))
        return answers[0].get_attr("RTA_OIF") if answers else None


class Watch:
    """Hears of interfaces that go, in the namespace of the thread that opens it. Use as a context manager."""

    def __init__(self, step_s: float) -> None:
        known = _pyroute2().netlink
        self._socket = _open(socket.NETLINK_ROUTE, step_s, known.rtnl.RTMGRP_LINK)
        self._marshal = known.marshal.Marshal()  # of other events it reads the header only
        self._marshal.msg_map = {known.rtnl.RTM_DELLINK: known.rtnl.ifinfmsg.ifinfmsg}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def saw_deleted(self, index: int) -> bool:
        """Wait for the next event, at most one step, and say whether it was that this interface went."""
        try:
            datagram = self._socket.recv(ANSWER_BYTES_MAX)
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # events were lost; the deleting thread will end
                return False
            raise
        return any(
            event["header"]["type"] in self._marshal.msg_map
            and event["index"] == index
            and event["family"] == socket.AF_UNSPEC  # AF_BRIDGE: it left its bridge
            for event in self._marshal.parse(datagram)
        )


# --- requests --------------------------------------------------------------------------------------------------------


def add_bridge(name: str, mac: str, mtu: int) -> Request:
    """A bridge without spanning tree; it is down. One that is there stays."""
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    fields = {"attrs": [*_interface(name, mac, mtu), ("IFLA_LINKINFO", info)]}
    return Request(f"adding bridge {name}", "RTM_NEWLINK", "CREATE EXCL", fields, frozenset({errno.EEXIST}))


def add_veth(name: str, mac: str, mtu: int, master: int, peer: str, peer_mac: str, netns: int) -> Request:
    """A veth pair, both ends down: *name* here as port of *master*, *peer* in the namespace that *netns* is open on."""
    other = {"attrs": [*_interface(peer, peer_mac, mtu), ("IFLA_NET_NS_FD", netns)]}
    data = {"attrs": [("VETH_INFO_PEER", other)]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    fields = {"attrs": [*_interface(name, mac, mtu), ("IFLA_MASTER", master), ("IFLA_LINKINFO", info)]}
    return Request(f"adding veth pair {name}", "RTM_NEWLINK", "CREATE EXCL", fields)


def add_detour(name: str) -> Request:
    """An ``ifb`` interface, down: packets that are led to it come back to where they were. One that is there stays."""
    fields = {"attrs": [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]})]}
    return Request(f"adding interface {name}", "RTM_NEWLINK", "CREATE EXCL", fields, frozenset({errno.EEXIST}))


def set_link(name: str, *, up: bool | None = None, mtu: int | None = None, master: int | None = None) -> Request:
    """Change an interface: up or down, its MTU, the bridge that it is a port of. None leaves a thing as it is."""
    fields: dict[str, Any] = {"attrs": [("IFLA_IFNAME", name)]}
    if up is not None:
        flag = _pyroute2().netlink.rtnl.ifinfmsg.IFF_UP
        fields |= {"flags": flag if up else 0, "change": flag}
    if mtu is not None:
        fields["attrs"].append(("IFLA_MTU", mtu))
    if master is not None:
        fields["attrs"].append(("IFLA_MASTER", master))
    return Request(f"setting up interface {name}", "RTM_NEWLINK", "", fields)


def set_port(name: str) -> Request:
    """Bring a bridge port up, not promiscuous, with hairpin: a pod may reach itself through its own service address."""
    known = _pyroute2().netlink.rtnl.ifinfmsg
    mode = {"attrs": [("IFLA_BRPORT_MODE", 1)]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", mode)]}
    attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    fields = {"flags": known.IFF_UP, "change": known.IFF_UP | known.IFF_PROMISC, "attrs": attributes}
    return Request(f"setting up bridge port {name}", "RTM_NEWLINK", "", fields)


def delete_link(name: str) -> Request:
    """Remove an interface; none is fine. Of a veth pair, both ends go."""
    fields = {"attrs": [("IFLA_IFNAME", name)]}
    return Request(f"deleting interface {name}", "RTM_DELLINK", "", fields, frozenset({errno.ENODEV}))


def add_address(index: int, address: Interface) -> Request:
    """An address, usable at once: no duplicate address detection. One that is there stays."""
    fields = _address(index, address)
    if address.version == 4:
        fields["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    fields["attrs"].append(("IFA_FLAGS", _pyroute2().netlink.rtnl.ifaddrmsg.IFA_F_NODAD))
    return Request(f"adding address {address}", "RTM_NEWADDR", "CREATE REPLACE", fields, frozenset({errno.EEXIST}))


def add_default_route(index: int, gateway: Address) -> Request:
    """The default route of the gateway's IP version; takes the place of one that is there."""
    known = _pyroute2()
    fields = {
        "family": _family(gateway),
        "table": known.iproute.linux.DEFAULT_TABLE,
        "proto": known.netlink.rtnl.rt_proto["static"],
        "type": known.netlink.rtnl.rt_type["unicast"],
        "attrs": [("RTA_OIF", index), ("RTA_GATEWAY", str(gateway))],
    }
    return Request(f"adding default route via {gateway}", "RTM_NEWROUTE", "CREATE REPLACE", fields)


def forget_neighbour(index: int, address: Address) -> Request:
    """Forget the link-layer address that *address* had; none is fine."""
    fields = {"family": _family(address), "ifindex": index, "attrs": [("NDA_DST", str(address))]}
    return Request(f"forgetting neighbour {address}", "RTM_DELNEIGH", "", fields, frozenset({errno.ENOENT}))


# --- between pyroute2's values and ours -------------------------------------------------------------------------------


def _open(protocol: int, timeout_s: float, groups: int = 0) -> socket.socket:
    """Open a blocking socket that hears what the multicast *groups* are told."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.settimeout(timeout_s)
    opened.bind((0, groups))
    return opened


@cache
def _pyroute2() -> Any:
    """Import pyroute2 the first time that it is needed; it costs 0.1 s and 10 MiB."""
    import pyroute2.netlink.rtnl.marshal

    return pyroute2


def _link_of(message: Any) -> Link:
    fields = {slot.name: slot for slot in message["attrs"]}  # get_attr would search them anew for each
    info = fields["IFLA_LINKINFO"].value if "IFLA_LINKINFO" in fields else None
    return Link(
        index=message["index"],
        name=fields["IFLA_IFNAME"].value,
        kind=info.get_attr("IFLA_INFO_KIND", "") if info else "",
        up=bool(message["flags"] & _pyroute2().netlink.rtnl.ifinfmsg.IFF_UP),
        mtu=fields["IFLA_MTU"].value,
        peer=fields["IFLA_LINK"].value if "IFLA_LINK" in fields else 0,
        operational=fields["IFLA_OPERSTATE"].value == "UP",
        forwarding=info is not None and info.get(("slave_data", "state")) == BRIDGE_FORWARDING,
    )


def _interface(name: str, mac: str, mtu: int) -> list[tuple[str, Any]]:
    return [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu)]


def _address(index: int, address: Interface) -> dict[str, Any]:
    attributes = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return {
        "family": _family(address.ip),
        "prefixlen": address.network.prefixlen,
        "index": index,
        "attrs": attributes,
    }


def _failure(request: Request, error: Exception | None) -> Refused | None:
    """Turn pyroute2's error into ours, unless there is none or it counts as success."""
    if error is None or error.args[0] in request.fine:
        return None
    code, words = error.args
    reason = os.strerror(code) if words in (None, os.strerror(code)) else f"{os.strerror(code)}: {words}"
    return Refused(code, f"{request.what}: {reason}")


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
