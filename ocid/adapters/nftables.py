"""The nftables table of this daemon, which ``ocid.domain.hostports`` describes: written by nft, kept in memory.

The table is written as a whole in one transaction, so nothing can leak into it or out of it; pods come and go as a few
elements of it. The table lives on when the daemon dies, and is read back once when it returns.

Other tables are never touched. A firewall of the host that drops forwarded packets keeps dropping them: in nftables no
table can accept what another one drops.
"""

from __future__ import annotations

import errno
import json
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from ocid.adapters import conntrack
from ocid.adapters.attributes import RawNetlink, attribute
from ocid.adapters.links import index_of
from ocid.adapters.netlink import NETFILTER, Refused
from ocid.domain import hostports
from ocid.domain.hostports import Held, HostPort
from ocid.domain.ipam import Subnet
from ocid.errors import EffectFailed, InvalidRequest, Unavailable, Unsupported, tail

NFT_S_MAX: Final = 30  # a transaction takes milliseconds; a ruleset of 100,000 rules of others takes seconds to read
_INET, _GET_TABLE, _TABLE_NAME = 1, 10 << 8 | 1, 1  # NFPROTO_INET, …NFTABLES << 8 | NFT_MSG_GETTABLE, NFTA_TABLE_NAME
_BRIDGE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,14}")
_DEVICE = re.compile(r"[a-zA-Z0-9_.:@-]{1,15}")  # fits between quotes; the kernel allows more than anybody uses


class Table:
    """The table of one bridge. Every method is one transaction, or none when nothing changes.

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
        self._held: Held | None = None  # None: not read yet
        self._written = False  # as a whole, in this life of the daemon: an earlier one may have had other subnets
        self._changing = trio.Lock()

    def exists(self) -> bool:
        """Ask the kernel whether the table is there; takes microseconds."""
        body = struct.pack("=BBH", _INET, 0, 0) + attribute(_TABLE_NAME, self.name.encode() + b"\0")
        with RawNetlink(NETFILTER) as kernel:
            try:
                kernel.run(f"looking for table {self.name}", _GET_TABLE, 0, body)
            except Refused as error:
                if error.errno != errno.ENOENT:
                    raise
                return False
        return True

    async def ensure(self, exists: bool) -> None:
        """Write the table with what it held, unless this daemon has and it *exists* still."""
        async with self._changing:
            if not (exists and self._written):
                await self._write(await self._known())

    async def replace(self, ports: Iterable[HostPort]) -> None:
        """Write the whole table with exactly these host ports. Interfaces that are there stay guarded."""
        async with self._changing:
            guarded = [*(await self._known()).devices, *(port.device for port in ports)]
            await self._write(Held(ports={port.key: port for port in ports}, devices=_present(guarded)))

    async def add(self, pod_id: str, ports: Sequence[HostPort]) -> None:
        """Lead *ports* to the pod, and no others.

        Raises:
            AlreadyExists: another pod has one of them.
        """
        async with self._changing:
            known = await self._known()
            hostports.refuse_taken(known, ports)
            before, rest = known.of(pod_id), known.without(pod_id)
            if set(before) == set(ports):
                return
            device = next((port.device for port in ports if port.device), "")
            if device and _DEVICE.fullmatch(device) is None:
                raise EffectFailed(f"interface name {device!r} does not do in an nftables table; rename the interface")
            guarded = tuple(dict.fromkeys([*known.devices, *filter(None, [device])]))
            await self._change(
                hostports.elements(self.name, "delete", before, rest.values())
                + hostports.devices(self.name, "add", filter(None, [device]))
                + hostports.elements(self.name, "add", ports),
                Held(ports={**rest, **{port.key: port for port in ports}}, devices=guarded),
            )
        await _forget_flows((*before, *ports))

    async def remove(self, pod_id: str) -> None:
        """Lead no port to the pod any more; none is fine."""
        async with self._changing:
            known = await self._known()
            gone, rest = known.of(pod_id), known.without(pod_id)
            if not gone:
                return
            guarded = _present(known.devices)
            held = Held(ports=rest, devices=guarded)
            if self.exists():
                stray = [device for device in known.devices if device not in guarded]
                text = hostports.elements(self.name, "delete", gone, rest.values())
                await self._change(text + hostports.devices(self.name, "delete", stray), held)
            self._held = held
        await _forget_flows(gone)

    async def uninstall(self) -> None:
        """Remove the table; none is fine."""
        async with self._changing:
            await self._run(f"add table inet {self.name}\ndelete table inet {self.name}\n")
            self._held, self._written = Held(), False

    async def _change(self, text: str, held: Held) -> None:
        """Bring the table to *held* by a few elements; as a whole where somebody's hand was in it."""
        try:
            await self._run(text)
            self._held = held
        except EffectFailed:
            await self._write(held)

    async def _write(self, held: Held) -> None:
        await self._run(hostports.ruleset(self.name, self._bridge, self._subnets, held))
        self._held, self._written = held, True

    async def _known(self) -> Held:
        """Return what is in the table, read from the kernel the first time."""
        if self._held is None:
            listed = await self._run("", "-j", "list", "table", "inet", self.name) if self.exists() else b"{}"
            self._held = hostports.listed(json.loads(listed), self._bridge)
        return self._held

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


def _present(devices: Iterable[str]) -> tuple[str, ...]:
    """Return the interfaces that are there, each once."""
    return tuple(name for name in dict.fromkeys(devices) if name and index_of(name) is not None)


async def _forget_flows(ports: Sequence[HostPort]) -> None:
    """Let UDP flows that go by the old rules find the new ones: they have no end that would make the kernel forget."""
    stale = [port for port in ports if port.protocol == "udp"]
    if stale:
        await trio.to_thread.run_sync(conntrack.forget_udp, stale)
