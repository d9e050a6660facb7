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
_BY_PROTOCOL_AND_PORT: Final = 1 << 3 | 1 << 5  # CTA_FILTER_FLAG(CTA_PROTO_NUM), …(CTA_PROTO_DST_PORT)
_BY_ADDRESS: Final = 1 << 1  # CTA_FILTER_FLAG(CTA_IP_DST)
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def forget_udp(ports: Collection[HostPort]) -> None:
    """Forget flows to these host ports. A kernel that cannot be asked for them is only reported: flows do time out."""
    try:
        with RawNetlink(NETFILTER) as kernel:
            for version, host_ip, _, number in dict.fromkeys(port.key for port in ports):
                _forget(kernel, version, host_ip, number)
    except OSError as error:
        log.warning("cannot forget UDP flows to host ports: %s", error.strerror)


def _forget(kernel: RawNetlink, version: int, host_ip: str, number: int) -> None:
    what, header = f"listing UDP flows to port {number}", struct.pack("=BBH", _FAMILY[version], 0, 0)
    flags = _BY_PROTOCOL_AND_PORT | (_BY_ADDRESS if host_ip else 0)
    address = [attribute(_IP_DST[version], ipaddress.ip_address(host_ip).packed)] if host_ip else []
    wanted = nested(
        _TUPLE_ORIG,
        *([nested(_TUPLE_IP, *address)] if address else []),
        nested(
            _TUPLE_PROTO,
            attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])),
            attribute(_PROTO_DST_PORT, struct.pack("!H", number)),
        ),
    )
    chosen = nested(_FILTER, attribute(_ORIG_FLAGS, struct.pack("=I", flags)))
    for flow in kernel.dump(what, _GET, header + wanted + chosen):
        of_flow = attributes(flow[len(header) :])
        if _port_of(of_flow.get(_TUPLE_ORIG, b"")) != number:  # a kernel that does not filter lists them all
            continue
        body = header + nested(_TUPLE_ORIG, of_flow[_TUPLE_ORIG])
        body += attribute(_ZONE, of_flow[_ZONE]) if _ZONE in of_flow else b""
        kernel.run(f"forgetting a UDP flow to port {number}", _DELETE, 0, body, frozenset({errno.ENOENT}))


def _port_of(flow: bytes) -> int:
    """Return the destination port of a UDP flow's first direction; 0 for another protocol."""
    protocol = attributes(attributes(flow).get(_TUPLE_PROTO, b""))
    if protocol.get(_PROTO_NUM) != bytes([socket.IPPROTO_UDP]) or len(protocol.get(_PROTO_DST_PORT, b"")) != 2:
        return 0
    return int.from_bytes(protocol[_PROTO_DST_PORT], "big")
