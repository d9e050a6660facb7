"""A small rtnetlink client: just the requests that pod networks need, blocking, in no thread of its own.

pyroute2 could do all of this, but costs 0.13 s of start and 10 MiB of memory for a few kilobytes of requests. Here a
request is a value, many travel in one system call, and the kernel's own words come back with a failure.

A socket belongs to the network namespace of the thread that opened it, for ever. The kernel answers a request before
``send`` returns, so nothing here waits for anything but the kernel's own locks.

Source: rtnetlink(7), netlink(7); linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/veth.h, linux/netfilter/.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

ANSWER_BYTES_MAX: Final = 1 << 18  # one datagram of a dump; the kernel sends at most 32 KiB
ANSWER_S_MAX: Final = 30  # the kernel answers at once, or it is waiting for its own locks

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")  # length, type

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, GETROUTE, DELNEIGH = 16, 17, 18, 20, 21, 22, 24, 26, 29
ERROR, DONE = 2, 3
NETFILTER: Final = 12  # NETLINK_NETFILTER
UP: Final = 0x1  # IFF_UP
PROMISC: Final = 0x100  # IFF_PROMISC


class Refused(OSError):
    """The kernel refused a request; ``strerror`` holds its words, ``errno`` the code."""


class Request(NamedTuple):
    """One message to the kernel, and the refusals that count as success."""

    what: str  # for the error message: "adding address 10.88.0.2/16 to eth0"
    type: int
    flags: int
    body: bytes
    fine: frozenset[int] = frozenset()  # errno values


@dataclass(frozen=True, slots=True)
class Link:
    """What the kernel says about an interface."""

    index: int
    name: str
    kind: str  # "veth", "bridge"; "" for hardware
    up: bool
    mtu: int
    mac: bytes
    peer: int  # index of the other end of a veth pair, in that end's namespace; 0 for none
    master: int  # index of the bridge that it is a port of; 0 for none
    operational: bool  # up, has a carrier, and its queue takes packets. RFC 2863 ifOperStatus
    forwarding: bool  # a bridge port that passes packets


class Netlink:
    """A netlink socket in the namespace of the thread that opens it. Use as a context manager.

    Raises:
        Refused: from every method, when the kernel refuses a request.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (
            11,
            12,
        ):  # NETLINK_EXT_ACK: words with errors; NETLINK_GET_STRICT_CHK: dumps filter in the kernel
            self._socket.setsockopt(270, option, 1)  # SOL_NETLINK
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", ANSWER_S_MAX, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, *requests: Request) -> None:
        """Make the kernel do all *requests* in this order, in one system call; raise the first refusal."""
        first = self._sequence + 1
        message = b"".join(self._message(request, REQUEST | ACK) for request in requests)
        self._socket.send(message)
        waiting = set(range(first, first + len(requests)))
        failures: dict[int, Refused] = {}
        while waiting:
            for kind, sequence, body in self._receive():
                if kind != ERROR or sequence not in waiting:
                    continue
                waiting.discard(sequence)
                request = requests[sequence - first]
                failure = _failure(request, body)
                if failure is not None and failure.errno not in request.fine:
                    failures[sequence] = failure
        if failures:
            raise failures[min(failures)]

    def ask(self, request: Request) -> list[bytes]:
        """Return the bodies of the kernel's answers to *request*, a question or a dump."""
        self._socket.send(self._message(request, REQUEST))
        answers: list[bytes] = []
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == ERROR:
                    failure = _failure(request, body)
                    if failure is None or failure.errno in request.fine:
                        return answers
                    raise failure
                if kind == DONE:
                    return answers
                answers.append(body)
                if request.flags & DUMP != DUMP:
                    return answers

    def _message(self, request: Request, flags: int) -> bytes:
        self._sequence += 1
        length = _HEADER.size + len(request.body)
        return _HEADER.pack(length, request.type, request.flags | flags, self._sequence, 0) + request.body

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """Receive the next datagram's messages: type, sequence number and body of each."""
        try:
            datagram = self._socket.recv(ANSWER_BYTES_MAX)
        except BlockingIOError:
            raise Refused(errno.ETIMEDOUT, f"the kernel did not answer within {ANSWER_S_MAX} s") from None
        return messages(datagram)

    def has_table(self, name: str) -> bool:
        """Say whether there is an nftables table of the family inet called *name*. For a NETFILTER socket only."""
        body = struct.pack("=BBH", 1, 0, 0) + attribute(1, name)  # nfgenmsg of NFPROTO_INET; NFTA_TABLE_NAME
        question = Request(f"looking for table {name}", 10 << 8 | 1, 0, body, frozenset({errno.ENOENT}))
        return bool(self.ask(question))  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE

    # --- questions ---------------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        """Return the interface called *name*, or None."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(3, name)
        fine = frozenset({errno.ENODEV})
        answers = self.ask(Request(f"looking for interface {name}", GETLINK, 0, body, fine))
        return link_of(answers[0]) if answers else None

    def link_at(self, index: int) -> Link | None:
        """Return the interface with this number, or None."""
        fine = frozenset({errno.ENODEV})
        body = _LINK.pack(0, 0, index, 0, 0)
        answers = self.ask(Request(f"looking for interface {index}", GETLINK, 0, body, fine))
        return link_of(answers[0]) if answers else None

    def addresses(self, index: int) -> frozenset[Interface]:
        """Return the addresses of an interface with their prefix lengths."""
        answers = self.ask(Request("listing addresses", GETADDR, DUMP, _ADDRESS.pack(0, 0, 0, 0, index)))
        found: set[Interface] = set()
        for body in answers:
            family, prefix, _flags, _scope, owner = _ADDRESS.unpack_from(body)
            fields = attributes(body[_ADDRESS.size :])
            raw = fields.get(2) or fields.get(1)  # IFA_LOCAL, IFA_ADDRESS
            if raw is not None and owner == index and family in (socket.AF_INET, socket.AF_INET6):
                found.add(ipaddress.ip_interface((raw, prefix)))
        return frozenset(found)

    def route_to(self, destination: str) -> int | None:
        """Return the index of the interface that packets to *destination* leave by, or None when there is no route."""
        address = ipaddress.ip_address(destination)
        family, bits = _family(address), address.max_prefixlen
        body = _ROUTE.pack(family, bits, 0, 0, 0, 0, 0, 0, 0) + attribute(1, address.packed)
        fine = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT})
        answers = self.ask(Request(f"looking for the route to {destination}", GETROUTE, 0, body, fine))
        if not answers:
            return None
        output = attributes(answers[0][_ROUTE.size :]).get(4)  # RTA_OIF
        return None if output is None else int(struct.unpack("=i", output)[0])


# --- requests --------------------------------------------------------------------------------------------------------


def add_bridge(name: str, mac: bytes, mtu: int) -> Request:
    """A bridge without spanning tree; it is down. One that is there stays."""
    info = attribute(1, "bridge")
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(3, name) + attribute(1, mac) + attribute(4, _u32(mtu))
    return Request(f"adding bridge {name}", NEWLINK, CREATE | EXCL, body + nested(18, info), _there())


def add_veth(name: str, mac: bytes, mtu: int, master: int, peer: str, peer_mac: bytes, netns: int) -> Request:
    """A veth pair, both ends down: *name* here as port of *master*, *peer* in the namespace that *netns* is open on."""
    other = _LINK.pack(0, 0, 0, 0, 0) + attribute(3, peer) + attribute(1, peer_mac) + attribute(4, _u32(mtu))
    data = nested(1, other + attribute(28, _u32(netns)))  # VETH_INFO_PEER; IFLA_NET_NS_FD
    info = attribute(1, "veth") + nested(2, data)
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(3, name) + attribute(1, mac) + attribute(4, _u32(mtu))
    body += attribute(10, _u32(master)) + nested(18, info)
    return Request(f"adding veth pair {name}", NEWLINK, CREATE | EXCL, body)


def set_link(name: str, *, up: bool | None = None, mtu: int | None = None, master: int | None = None) -> Request:
    """Change an interface: up or down, its MTU, the bridge that it is a port of. None leaves a thing as it is."""
    flags, mask = (0, 0) if up is None else (UP if up else 0, UP)
    body = _LINK.pack(0, 0, 0, flags, mask) + attribute(3, name)
    body += b"" if mtu is None else attribute(4, _u32(mtu))
    body += b"" if master is None else attribute(10, _u32(master))
    return Request(f"setting up interface {name}", NEWLINK, 0, body)


def set_port(name: str) -> Request:
    """Bring a bridge port up, not promiscuous, with hairpin: a pod may reach itself through its own service address."""
    mode = nested(5, attribute(4, b"\x01"))  # IFLA_INFO_SLAVE_DATA { IFLA_BRPORT_MODE }
    body = _LINK.pack(0, 0, 0, UP, UP | PROMISC) + attribute(3, name)
    return Request(f"setting up bridge port {name}", NEWLINK, 0, body + nested(18, attribute(4, "bridge") + mode))


def delete_link(name: str) -> Request:
    """Remove an interface; none is fine. Of a veth pair, both ends go."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(3, name)
    return Request(f"deleting interface {name}", DELLINK, 0, body, frozenset({errno.ENODEV}))


def add_address(index: int, address: Interface) -> Request:
    """An address, usable at once: no duplicate address detection. One that is there stays."""
    body = _ADDRESS.pack(_family(address.ip), address.network.prefixlen, 0, 0, index)
    body += attribute(2, address.packed) + attribute(1, address.packed)
    if isinstance(address, ipaddress.IPv4Interface):
        body += attribute(4, address.network.broadcast_address.packed)
    body += attribute(8, _u32(0x02))  # IFA_FLAGS: IFA_F_NODAD
    return Request(f"adding address {address}", NEWADDR, CREATE | REPLACE, body, _there())


def delete_address(index: int, address: Interface) -> Request:
    """Take an address from an interface; none is fine."""
    body = _ADDRESS.pack(_family(address.ip), address.network.prefixlen, 0, 0, index)
    body += attribute(2, address.packed) + attribute(1, address.packed)
    return Request(f"removing address {address}", DELADDR, 0, body, frozenset({errno.EADDRNOTAVAIL}))


def add_default_route(index: int, gateway: Address) -> Request:
    """The default route of the gateway's IP version; takes the place of one that is there."""
    table_main, protocol_static, unicast = 254, 4, 1
    body = _ROUTE.pack(_family(gateway), 0, 0, 0, table_main, protocol_static, 0, unicast, 0)
    body += attribute(4, _u32(index)) + attribute(5, gateway.packed)
    return Request(f"adding default route via {gateway}", NEWROUTE, CREATE | REPLACE, body)


def forget_neighbour(index: int, address: Address) -> Request:
    """Forget the link-layer address that *address* had; none is fine."""
    body = _NEIGHBOUR.pack(_family(address), index, 0, 0, 0) + attribute(1, address.packed)
    return Request(f"forgetting neighbour {address}", DELNEIGH, 0, body, frozenset({errno.ENOENT}))


# --- messages and attributes ------------------------------------------------------------------------------------------


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and body of each message in *datagram*."""
    while len(datagram) >= _HEADER.size:
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(datagram)
        if length < _HEADER.size:
            return
        yield kind, sequence, datagram[_HEADER.size : length]
        datagram = datagram[_align(length) :]


def attribute(kind: int, value: bytes | str) -> bytes:
    """Encode one attribute; text ends with a zero byte."""
    raw = value.encode() + b"\0" if isinstance(value, str) else value
    length = _ATTRIBUTE.size + len(raw)
    return _ATTRIBUTE.pack(length, kind) + raw + bytes(_align(length) - length)


def nested(kind: int, value: bytes) -> bytes:
    """Encode an attribute that holds attributes."""
    return attribute(kind | 0x8000, value)  # NLA_F_NESTED


def attributes(raw: bytes) -> dict[int, bytes]:
    """Decode a run of attributes; of one that occurs twice, the last counts."""
    found: dict[int, bytes] = {}
    while len(raw) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(raw)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = raw[_ATTRIBUTE.size : length]
        raw = raw[_align(length) :]
    return found


def link_of(body: bytes) -> Link:
    """Decode the body of a NEWLINK or DELLINK message."""
    _family, _type, index, flags, _change = _LINK.unpack_from(body)
    fields = attributes(body[_LINK.size :])
    info = attributes(fields.get(18, b""))

    def number(kind: int) -> int:
        return int(struct.unpack("=I", fields[kind])[0]) if kind in fields else 0

    name, kind = fields.get(3, b""), info.get(1, b"")
    return Link(
        index=index,
        name=name.rstrip(b"\0").decode(),
        kind=kind.rstrip(b"\0").decode(),
        up=bool(flags & UP),
        mtu=number(4),
        mac=fields.get(1, b""),
        peer=number(5),
        master=number(10),
        operational=fields.get(16) == b"\x06",  # IFLA_OPERSTATE: IF_OPER_UP
        forwarding=attributes(info.get(5, b"")).get(1) == b"\x03",  # IFLA_BRPORT_STATE: BR_STATE_FORWARDING
    )


def _failure(request: Request, body: bytes) -> Refused | None:
    """Read an NLMSG_ERROR: 0 is the acknowledgement. The kernel's words follow the header of the request."""
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    length = struct.unpack_from("=I", body, 4)[0]
    words = attributes(body[4 + _align(length) :]).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
    reason = f"{os.strerror(code)}: {words}" if words else os.strerror(code)
    return Refused(code, f"{request.what}: {reason}")


def _align(length: int) -> int:
    return (length + 3) & ~3


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _there() -> frozenset[int]:
    return frozenset({errno.EEXIST})


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
