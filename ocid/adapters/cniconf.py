"""A directory of CNI configurations, looked at again and again: what counts now, and what is wrong with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.domain import cni, networks
from ocid.domain.cni import NetworkList

SCAN_S: Final = 1.0  # a configuration that appears or changes is noticed within this time

Seen = tuple[tuple[str, int, int, int], ...]  # name, inode, size and time of change of each file


class Configurations:
    """The first valid network in *directory*, which need not exist, and all by name.

    *missing* names programs that a network lacks, *places* is where they should be.
    """

    def __init__(
        self, directory: Path, missing: Callable[[NetworkList], tuple[str, ...]], places: Sequence[Path]
    ) -> None:
        self.directory = directory
        self.network: NetworkList | None = None
        self.named: Mapping[str, NetworkList] = {}  # every valid one, the first one too
        self.faults: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        self._missing = missing
        self._places = tuple(places)
        self._seen: Seen | None = None  # what was read
        self._scanned_at = 0.0
        self.scan()

    @property
    def empty(self) -> bool:
        """Whether nobody has configured anything here."""
        return self.network is None and not self.faults

    def scan(self) -> None:
        """Look at configurations and plugins again if a second has passed; read only what changed."""
        now = time.monotonic()
        if self._seen is not None and now - self._scanned_at < SCAN_S:
            return
        self._scanned_at = now
        try:
            found = self._look()
        except OSError as error:
            self._seen, self.network, self.named = (), None, {}
            self.faults = (f"cannot read CNI configurations in {self.directory}: {error.strerror}",)
            return
        if found != self._seen:
            files, unreadable = _read(self.directory, [name for name, *_ in found if "/" not in name])
            network, faults = cni.choose(files)
            if network is not None:
                network, wrong = self._whole(network, found)
                faults = (*faults, *wrong)
            named = {name: self._whole(one, found)[0] for name, one in networks.every(files).items()}
            self.named = named if network is None else {**named, network.name: network}
            self.network, self.faults, self._seen = network, (*unreadable, *faults), found
        self.missing = () if self.network is None else self._missing(self.network)

    def _whole(self, network: NetworkList, found: Seen) -> tuple[NetworkList, tuple[str, ...]]:
        """Return a network with the plugins that lie beside it, and what is wrong with these."""
        if network.only_inlined:
            return network, ()
        more, torn = _read(self.directory, [name for name, *_ in found if name.startswith(f"{network.name}/")])
        whole, wrong = cni.with_more(network, more)
        return whole, (*torn, *wrong)

    def not_ready(self) -> str | None:
        """Return why no pod can be attached to this network, or None; "" when nothing is configured."""
        if self.network is None:
            return "; ".join(self.faults)
        if self.missing:
            needs, places = ", ".join(self.missing), ", ".join(str(place) for place in self._places)
            return f"CNI network {self.network.name!r} needs {needs}, not found in {places}: install them"
        return None

    def _look(self) -> Seen:
        """Look at the directory, and at the one that a network with more plugins has beside it."""
        found = list(_files(self.directory, "", cni.SUFFIXES))
        with suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.is_dir():
                    found += _files(self.directory / entry.name, f"{entry.name}/", cni.MORE_SUFFIXES)
        return tuple(sorted(found))


def _files(directory: Path, prefix: str, suffixes: tuple[str, ...]) -> Seen:
    """Return what can be told of the configurations in a directory without reading them; no directory is an empty one.

    Raises:
        OSError: it cannot be read.
    """
    found: list[tuple[str, int, int, int]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(suffixes):
                    with suppress(FileNotFoundError):
                        stat = entry.stat()
                        found.append((prefix + entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except FileNotFoundError:
        return ()
    return tuple(found)


def _read(directory: Path, names: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """Read the files as far as the parser will look, and say which ones cannot be read."""
    files: dict[str, bytes] = {}
    faults: list[str] = []
    for name in sorted(names)[: cni.FILES_MAX + 1]:
        try:
            with open(directory / name, "rb") as file:
                files[name] = file.read(cni.CONFIG_BYTES_MAX + 1)
        except OSError as error:
            faults.append(f"CNI configuration {name!r}: {error.strerror}")
    return files, faults
