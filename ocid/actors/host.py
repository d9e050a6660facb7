"""The ports and settings that actors work with, in one bundle that only ``main`` fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ocid.actors.actor import Note
from ocid.actors.salts import Salts
from ocid.domain.confidential import SALT_BYTES, Confidential
from ocid.domain.redaction import DEFAULT_RULES, RedactionRules
from ocid.domain.spec.inputs import SpecPolicy
from ocid.errors import OcidError
from ocid.ids import PodId
from ocid.ports import Clock, HostFiles, Journal, Layers, Network, Registry, Runtime, Sandboxes, Secrets, Usage
from ocid.ports.archives import Archives, NoArchives
from ocid.ports.confinement import Confinement, NoConfinement
from ocid.ports.plugins import NoPlugins, Plugins
from ocid.ports.streaming import Streams

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 60.0


@dataclass(frozen=True)
class Settings:
    """What the configuration file decides and the actors need."""

    root: Path  # persistent: layers, writable layers, the log
    run: Path  # gone after a reboot: bundles, pins, sockets
    default_handler: str = "runc"
    default_cgroup_parent: str = "/ocid"
    cgroup_driver: str = "cgroupfs"  # "cgroupfs" or "systemd"
    spec_policy: SpecPolicy = field(default_factory=SpecPolicy)
    redaction: RedactionRules = DEFAULT_RULES
    salt: bytes = bytes(16)  # of redaction; kept in a file of its own, never in the log
    create_missing_mounts: bool = True  # a bind mount's missing source becomes a directory, as CRI-O does
    block_io_file: str = ""  # of block I/O classes; "" for none
    coalesce_probes: bool = True  # commands that a client repeats are counted, not written one by one
    pull_layers_max: int = 8  # layers of one pull in hand at once; downloads and unpackings have limits of their own


@dataclass(frozen=True)
class Host:
    """All the world that the core can touch."""

    settings: Settings
    clock: Clock
    journal: Journal
    secrets: Secrets
    sandboxes: Sandboxes
    network: Network
    runtime: Runtime
    streams: Streams
    layers: Layers
    registry: Registry
    files: HostFiles
    usage: Usage
    new_id: Callable[[int], str]  # that many random hex digits
    plugins: Plugins = field(default_factory=NoPlugins)
    archives: Archives = field(default_factory=NoArchives)
    confinement: Confinement = field(default_factory=NoConfinement)
    salts: Salts = field(default_factory=Salts)

    def confide(self, pod_id: PodId, text: bytes) -> Confidential:
        """Return *text* as one that is erased with *pod_id*'s other ones, for the commit of what cites it."""
        return self.salts.confide(pod_id, text, lambda: bytes.fromhex(self.new_id(2 * SALT_BYTES)))


async def back_off(failures: int) -> None:
    """Wait before a step that failed *failures* times in a row is tried again; the first try does not wait."""
    if failures:
        await trio.sleep(min(RETRY_FIRST_S * 2 ** (failures - 1), RETRY_MAX_S))


def note_failed(step: str, error: OcidError, make: Callable[[str, str, str], object]) -> Note:
    """Turn a foreseen failure into a note; *make* gets step, error name and message."""
    return Note(make(step, type(error).__name__, error.message))
