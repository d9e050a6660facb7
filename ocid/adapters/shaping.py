"""How fast a pod of the built-in network may talk: token buckets on the host's side, where no pod can take them away.

What goes to the pod leaves the host by the host's end of the veth pair, and waits there. What comes from the pod enters
by the same end, where the kernel can only drop; so it is led through an ``ifb`` interface of the pod's own, and waits
there.

Source: linux/pkt_sched.h, linux/pkt_cls.h, tc-tbf(8).
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from ocid.adapters import netlink
from ocid.adapters.attributes import CREATE, EXCL, REPLACE, RawNetlink, attribute, nested
from ocid.adapters.links import delete_soon, index_of
from ocid.adapters.netlink import Netlink
from ocid.domain.bandwidth import Bandwidth, burst_bytes, queue_bytes

_NEW_QDISC, _DELETE_QDISC, _NEW_FILTER = 36, 37, 44  # RTM_*
_KIND, _OPTIONS = 1, 2  # TCA_*
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000  # TC_H_*
_HANDLE: Final = 0x10000  # "1:"
_MESSAGE = struct.Struct("=BxxxiIII")  # tcmsg: family, interface, handle, parent, info
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_TBF = struct.Struct("=BBHhHI12xIII")  # tc_tbf_qopt: cell log, link layer, …, rate, no peak, limit, buffer, mtu
_ETHERNET: Final = 1  # TC_LINKLAYER_ETHERNET
_RATE32_MAX: Final = 0xFFFFFFFF
_EVERY_PROTOCOL: Final = 1 << 16 | 0x0300  # priority 1, ETH_P_ALL in network order
_U32_CLASSID, _U32_SEL, _U32_ACT = 1, 5, 7
_EVERY_PACKET: Final = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + bytes(16)  # one key: nothing masked
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_STOLEN, _REDIRECT = 4, 1  # TC_ACT_STOLEN, TCA_EGRESS_REDIR


def shape(host: Netlink, interface: str, limits: Bandwidth) -> None:
    """Make the pod behind *interface*, the host's end of its veth pair, keep its limits; what is there is replaced.

    Raises:
        OSError: the kernel refuses, or lacks a part: sch_tbf, sch_ingress, cls_u32, act_mirred or ifb.
    """
    index = index_of(interface)
    if index is None or limits == Bandwidth():
        return
    with RawNetlink(socket.NETLINK_ROUTE) as kernel:
        if limits.ingress:
            _bucket(kernel, interface, index, limits.ingress)
        if limits.egress:
            detour = detour_of(interface)
            host.run(netlink.add_detour(detour), netlink.set_link(detour, up=True))
            through = index_of(detour)
            if through is None:
                raise OSError(errno.ENODEV, f"interface {detour} went away")
            _bucket(kernel, detour, through, limits.egress)
            _redirect(kernel, interface, index, through)


def unshape(interface: str) -> None:
    """Take away what does not go with the veth pair itself; none is fine."""
    if index_of(detour_of(interface)) is not None:
        delete_soon(detour_of(interface))


def detour_of(interface: str) -> str:
    """Return the name of the interface that packets from the pod are led through."""
    return f"ifb{interface[-12:]}"


def _bucket(kernel: RawNetlink, name: str, index: int, rate: int) -> None:
    """Let *rate* bits per second out of an interface."""
    bytes_s, burst = max(rate // 8, 1), burst_bytes(rate)
    parameters = _TBF.pack(0, _ETHERNET, 0, 0, 0, min(bytes_s, _RATE32_MAX), queue_bytes(rate), 0, 0)
    more = [attribute(_TBF_RATE64, struct.pack("=Q", bytes_s))] if bytes_s > _RATE32_MAX else []
    options = nested(
        _OPTIONS,
        attribute(_TBF_PARMS, parameters),
        attribute(_TBF_BURST, struct.pack("=I", burst)),
        *more,
    )
    body = _MESSAGE.pack(0, index, _HANDLE, _ROOT, 0) + attribute(_KIND, b"tbf\0") + options
    kernel.run(f"limiting interface {name} to {rate} bit/s", _NEW_QDISC, CREATE | REPLACE, body)


def _redirect(kernel: RawNetlink, name: str, index: int, through: int) -> None:
    """Lead what comes in by an interface through another one."""
    doing = f"leading packets of interface {name} through their limit"
    ingress = _MESSAGE.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0) + attribute(_KIND, b"ingress\0")
    kernel.run(doing, _DELETE_QDISC, 0, ingress, frozenset({errno.ENOENT, errno.EINVAL}))
    kernel.run(doing, _NEW_QDISC, CREATE | EXCL, ingress)
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, through)
    action = nested(1, attribute(_ACT_KIND, b"mirred\0"), nested(_ACT_OPTIONS, attribute(_MIRRED_PARMS, mirred)))
    options = nested(
        _OPTIONS,
        attribute(_U32_CLASSID, struct.pack("=I", _HANDLE | 1)),
        attribute(_U32_SEL, _EVERY_PACKET),
        nested(_U32_ACT, action),
    )
    body = _MESSAGE.pack(0, index, 0, _INGRESS_HANDLE, _EVERY_PROTOCOL) + attribute(_KIND, b"u32\0") + options
    kernel.run(doing, _NEW_FILTER, CREATE | EXCL, body)
