"""Makes the kernel forget UDP flows to host ports whose pod came or went.

A UDP flow keeps the destination that its first packet got, for as long as packets come: a resolver that asks from the
same port again and again would go on asking a pod that is gone. TCP has ends and resets, and is left alone.

Source: linux/netfilter/nfnetlink_conntrack.h; the kernel filters what it lists since 5.8.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Collection
from typing import Final

from ocid.adapters.attributes import RawNetlink, attribute, attributes, nested
from ocid.adapters.netlink import NETFILTER
from ocid.domain.hostports import HostPort

log = logging.getLogger(__name__)

_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_TUPLE_ORIG, _ZONE, _FILTER = 1, 18, 25  # CTA_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2  # CTA_TUPLE_*
_IP_DST: Final = {4: 2, 6: 4}  # CTA_IP_V4_DST, CTA_IP_V6_DST
_PROTO_NUM, _PROTO_DST_PORT = 1, 3  # CTA_PROTO_*
_ORIG_FLAGS: Final = 1  # CTA_FILTER_ORIG_FLAGS
_BY_PROTOCOL, _BY_PORT = 1 << 3, 1 << 5  # CTA_FILTER_FLAG(CTA_PROTO_NUM), …(CTA_PROTO_DST_PORT)
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def forget_udp(ports: Collection[HostPort]) -> None:
    """Forget flows to these host ports. A kernel that cannot be asked for them is only reported: flows do time out."""
    wanted: dict[int, set[tuple[str, int]]] = {}  # host address and port, by IP version
    for port in ports:
        wanted.setdefault(port.version, set()).add((port.host_ip, port.host_port))
    try:
        with RawNetlink(NETFILTER) as kernel:
            for version, keys in wanted.items():
                _forget(kernel, version, keys)
    except OSError as error:
        log.warning("cannot forget UDP flows to host ports: %s", error.strerror)


def _forget(kernel: RawNetlink, version: int, keys: Collection[tuple[str, int]]) -> None:
    """Forget flows to some host ports of one IP version."""
    header = struct.pack("=BBH", _FAMILY[version], 0, 0)
    numbers = {number for _, number in keys}
    alone = [attribute(_PROTO_DST_PORT, struct.pack("!H", number)) for number in numbers if len(numbers) == 1]
    protocol = nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])), *alone)
    flags = _BY_PROTOCOL | (_BY_PORT if alone else 0)  # the kernel can pick one port, or all
    chosen = nested(_FILTER, attribute(_ORIG_FLAGS, struct.pack("=I", flags)))
    flows = kernel.dump("listing UDP flows", _GET, header + nested(_TUPLE_ORIG, protocol) + chosen)
    for flow in flows:
        of_flow = attributes(flow[len(header) :])
        original = of_flow.get(_TUPLE_ORIG, b"")
        address, number = _target(original, version)
        if number == 0 or not {(address, number), ("", number)} & set(keys):
            continue
        body = header + nested(_TUPLE_ORIG, original)
        body += attribute(_ZONE, of_flow[_ZONE]) if _ZONE in of_flow else b""
        kernel.run(f"forgetting a UDP flow to port {number}", _DELETE, 0, body, frozenset({errno.ENOENT}))


def _target(original: bytes, version: int) -> tuple[str, int]:
    """Return address and port that the first packet of a UDP flow was sent to; port 0 for another protocol."""
    parts = attributes(original)
    protocol = attributes(parts.get(_TUPLE_PROTO, b""))
    address = attributes(parts.get(_TUPLE_IP, b"")).get(_IP_DST[version], b"")
    if protocol.get(_PROTO_NUM) != bytes([socket.IPPROTO_UDP]) or len(address) not in (4, 16):
        return "", 0
    return str(ipaddress.ip_address(address)), int.from_bytes(protocol.get(_PROTO_DST_PORT, b""), "big")
