"""The pod network of the node: CNI when it is configured, else the built-in bridge."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.adapters.bridge import Bridge
from ocid.adapters.cni import PLUGIN_S_MAX, Cni
from ocid.domain import cni
from ocid.domain.cni import NetworkList
from ocid.errors import InvalidRequest, Unavailable
from ocid.ports import Attachment, NetworkOrder

SCAN_S: Final = 1.0  # a configuration that appears or changes is noticed within this time


class Networks:
    """Implements ``ocid.ports.Network``.

    Any configuration in *cni_conf_dir* means that this node's pods belong on a CNI network: while none of them is
    valid, no pod is attached at all, rather than to a network that nobody meant. Without any, pods go to the built-in
    bridge; without *subnets* there is no built-in bridge. A pod stays with the kind of network that it was declared
    with. Pods outlive the daemon: nothing is taken down when it ends.

    Args:
        cni_conf_dir: where ``*.conflist``, ``*.conf`` and ``*.json`` lie; need not exist.
        cni_bin_dirs: where plugins are looked for, in order.
        cni_state_dir: what must be undone, a file for each pod; must survive a reboot.
        bridge: name of the built-in bridge: a letter, then at most 14 letters, digits and ``_``.
        subnets: its subnets, at most one IPv4 and one IPv6, the primary one first.
    Raises:
        InvalidRequest: a bad bridge name or subnet.
    """

    def __init__(
        self,
        *,
        cni_conf_dir: Path,
        cni_bin_dirs: Sequence[Path],
        cni_state_dir: Path,
        bridge: str,
        subnets: Sequence[str],
        plugin_timeout_s: float = PLUGIN_S_MAX,
        nft: str = "nft",
    ) -> None:
        self._conf_dir = cni_conf_dir
        self._cni = Cni(cni_bin_dirs, cni_state_dir, timeout_s=plugin_timeout_s)
        self._bin_dirs = tuple(cni_bin_dirs)
        self._bridge = Bridge(bridge, subnets, nft=nft) if subnets else None
        self._network: NetworkList | None = None
        self._faults: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()  # programs that the network needs and nobody has
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None  # what was read: name, inode, size, time
        self._scanned_at = 0.0
        self._scan()

    def kind(self) -> str:
        """Return "cni" or "bridge": what a pod declared now will use."""
        self._scan()
        return "bridge" if self._bridge is not None and not self._faults and self._network is None else "cni"

    def subnets(self) -> tuple[str, ...]:
        """Return the built-in network's subnets as CIDRs, at most one IPv4 and one IPv6."""
        return () if self._bridge is None else self._bridge.subnets()

    def not_ready(self) -> str | None:
        """Return why pods cannot be attached now, or None; looks at the disk at most once a second."""
        if self.kind() == "bridge":
            assert self._bridge is not None
            return self._bridge.not_ready()
        if self._network is None:
            return "; ".join(self._faults) or f"no CNI configuration in {self._conf_dir}, and no built-in network"
        if self._missing:
            needs, places = ", ".join(self._missing), ", ".join(str(place) for place in self._bin_dirs)
            return f"CNI network {self._network.name!r} needs {needs}, not found in {places}: install them"
        return None

    async def attach(self, order: NetworkOrder) -> Attachment:
        """Give the pod its interface and addresses. Called again for an attached pod, returns the same.

        Raises:
            Unavailable: there is no network of the order's kind now.
            OcidError: as ``Bridge.attach`` and ``Cni.attach``.
        """
        if order.network == "bridge":
            return await self._built_in(order).attach(order)
        if order.network != "cni":
            raise InvalidRequest(f"pod network {order.network!r}: wanted 'bridge' or 'cni'")
        self._scan()
        if self._network is None:
            raise Unavailable(self.not_ready() or f"no CNI configuration in {self._conf_dir}; configure one")
        return await self._cni.attach(self._network, order)

    async def detach(self, order: NetworkOrder, result: bytes | None) -> None:
        """Take the pod's interface and addresses away. Nothing left, or no namespace, is success."""
        if order.network == "bridge":
            await self._built_in(order).detach(order)
        elif order.network == "cni":
            self._scan()
            await self._cni.detach(order, result, self._network)

    async def reconcile(self, live: Collection[NetworkOrder]) -> None:
        """Make the host ports of the built-in network exactly those of the *live* pods. For the daemon's start."""
        ours = [order for order in live if order.network == "bridge"]
        if self._bridge is not None and (ours or self.kind() == "bridge"):
            await self._bridge.reconcile(ours)

    async def remove_all(self) -> None:
        """Remove the built-in bridge and its nftables table. For tests and uninstalling: pods lose their network."""
        if self._bridge is not None:
            await self._bridge.remove_all()

    def _built_in(self, order: NetworkOrder) -> Bridge:
        if self._bridge is None:
            raise Unavailable(f"pod {order.pod_id[:13]} is of the built-in network, which has no subnet; configure one")
        return self._bridge

    def _scan(self) -> None:
        """Look at the configurations and plugins again if a second has passed; read only what changed."""
        now = time.monotonic()
        if self._seen is not None and now - self._scanned_at < SCAN_S:
            return
        self._scanned_at = now
        try:
            found = _configurations(self._conf_dir)
        except OSError as error:
            self._seen, self._network = (), None
            self._faults = (f"cannot read CNI configurations in {self._conf_dir}: {error.strerror}",)
            return
        if found != self._seen:
            files, unreadable = _read(self._conf_dir, [name for name, *_ in found])
            self._network, faults = cni.choose(files)
            self._faults = (*unreadable, *faults)
            self._seen = found
        self._missing = () if self._network is None else self._cni.missing(self._network)


def _configurations(directory: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return name, inode, size and time of change of each configuration; no directory is an empty one."""
    found: list[tuple[str, int, int, int]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(cni.SUFFIXES):
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        found.append((entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except FileNotFoundError:
        return ()
    return tuple(sorted(found))


def _read(directory: Path, names: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """Read the files as far as the parser will look, and say which ones cannot be read."""
    files: dict[str, bytes] = {}
    faults: list[str] = []
    for name in names[: cni.FILES_MAX + 1]:
        try:
            with open(directory / name, "rb") as file:
                files[name] = file.read(cni.CONFIG_BYTES_MAX + 1)
        except OSError as error:
            faults.append(f"CNI configuration {name!r}: {error.strerror}")
    return files, faults
