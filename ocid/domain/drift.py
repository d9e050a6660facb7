"""Drift: what the log says is on the host, compared with what is there. Pure.

The log's side is a set of claims: of this thing, this is to be there. The host's side is what was found, thing by
thing, in the same words. What is claimed and found otherwise is a difference, and so is what was found though nothing
claims it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from ocid.domain.hostports import HostPort
from ocid.ids import Digest

NOTHING: Final = ""  # of what is not to be there, or was not found
ANYTHING: Final = "*"  # may be there in any shape, or not: work on it is going on
PRESENT: Final = "there"  # in any shape

THE_HOSTS: Final = "the host's"  # of namespaces
ITS_OWN: Final = "its own"

# Kinds of things. They are what ``ocid drift`` prints, and programs may rely on them.
PROCESS: Final = "process"
NAMESPACE: Final = "namespace"
CGROUP: Final = "cgroup"
MEMBERSHIP: Final = "membership"  # the cgroup that a process is in
FREEZER: Final = "freezer"
STATE: Final = "runtime state"
MONITOR: Final = "monitor"
MOUNT: Final = "mount"
DIRECTORY: Final = "directory"
LAYER: Final = "layer"
LINK: Final = "link"
ADDRESSES: Final = "addresses"
SYSCTL: Final = "sysctl"
RULES: Final = "nftables"
INTRUDER: Final = "intruder"  # a process among a container's that came from outside


class Thing(NamedTuple):
    """Something on the host, by its kind and its name."""

    kind: str
    name: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream of the log says of one thing."""

    thing: Thing
    expected: str  # NOTHING, ANYTHING, PRESENT, or what is to be found
    seq: int  # of the last event of the stream
    given: Thing | None = None  # another claim, without which this one cannot hold: it is not judged then


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of which log and host say something else."""

    kind: str
    subject: str
    expected: str  # what the log says; NOTHING where it names no such thing
    found: str  # what the host has
    seq: int = 0  # of the last event of the stream that claims it, or that it happened to; 0 where there is none

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What two looks at the same difference have in common; what is found may change from look to look."""
        return self.kind, self.subject, self.expected, self.seq


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One process that the log names, and what is to be looked at about it."""

    stream: str  # "container/<id>", or "pod/<id>" for its pause process
    pid: int
    start_ticks: int
    cgroup: str  # OCI linux.cgroupsPath
    namespaces: Mapping[str, str] = {}  # kind as in /proc/PID/ns → THE_HOSTS, ITS_OWN, or a path that is the same one
    bundle: str = ""  # where its monitor is written down; "" for one without
    closed: bool = False  # nobody has leave to put processes beside it now


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's network, to be looked at from inside."""

    pod_id: str
    netns: str
    addresses: tuple[str, ...]  # that the log says it has
    strict: bool  # others on its interface are a difference


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """What all pods share of the built-in network, and the host ports."""

    bridge: str
    subnets: tuple[str, ...]
    used: bool  # pods are on it: bridge and table have to be there
    must: tuple[HostPort, ...] = ()
    may: tuple[HostPort, ...] = ()  # work on them goes on, or a CNI plugin may have them instead
    seqs: Mapping[str, int] = {}  # pod id → seq of the last event of its stream
    sysctls: tuple[str, ...] = ()  # "ipv4/ip_forward": of which the values are wanted


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Where the daemon that wrote the log keeps its things."""

    root: str
    run: str
    cgroup_parent: str
    cgroup_driver: str
    bridge: str
    subnets: tuple[str, ...]
    daemon_pid: int = 0  # of the one that runs, as the log has it; 0 where none should


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the host is asked about."""

    where: Where
    lives: tuple[Life, ...]
    cgroups: tuple[str, ...]  # directories in a hierarchy that the log names; what is below them is the containers'
    parents: tuple[str, ...]  # directories in a hierarchy that pods' cgroups are in; they may hold others' too
    links: tuple[str, ...]  # the host's ends of pods' interfaces; what else is in the bridge is told, too
    insides: tuple[Inside, ...]
    network: Network


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """All that the log says of the host, as of one position."""

    asked: Asked
    claims: tuple[Claim, ...]


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the host."""

    found: Mapping[Thing, str]
    rules: tuple[Difference, ...] = ()  # of the nftables table


def compare(claims: Iterable[Claim], sighting: Sighting) -> tuple[Difference, ...]:
    """Return the differences, by kind and subject."""
    claimed: dict[Thing, Claim] = {}
    for claim in claims:
        known = claimed.get(claim.thing)
        if known is None or known.expected == ANYTHING:
            claimed[claim.thing] = claim
    found = sighting.found
    seqs = {claim.thing.name: claim.seq for claim in claimed.values() if claim.thing.kind == PROCESS}
    differences = [
        Difference(
            kind=thing.kind,
            subject=thing.name,
            expected=claim.expected,
            found=found.get(thing, NOTHING),
            seq=claim.seq,
        )
        for thing, claim in claimed.items()
        if not _holds(claim, found) and (claim.given not in claimed or _holds(claimed[claim.given], found))
    ]
    differences += [
        Difference(
            kind=thing.kind, subject=thing.name, expected=NOTHING, found=text, seq=seqs.get(thing.name.split(" ")[0], 0)
        )
        for thing, text in found.items()
        if thing not in claimed
    ]
    differences += sighting.rules
    return tuple(sorted(differences, key=lambda one: (one.kind, one.subject, one.expected, one.found)))


def _holds(claim: Claim, found: Mapping[Thing, str]) -> bool:
    text = found.get(claim.thing, NOTHING)
    if claim.expected == ANYTHING:
        return True
    return bool(text) if claim.expected == PRESENT else text == claim.expected


def confirmed(before: Iterable[Difference], now: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return those differences of *now* that were there *before*, while the stream that claims them stood still."""
    seen = {one.identity for one in before}
    return tuple(one for one in now if one.identity in seen)


# --- the words that both sides use ------------------------------------------------------------------------------------


def process_text(pid: int, start_ticks: int) -> str:
    """Say which process it is."""
    return f"pid {pid}, started at tick {start_ticks}"


def state_text(pid: int) -> str:
    """Say what an OCI runtime keeps of a container."""
    return f"pid {pid}"


def overlay_text(writable: str) -> str:
    """Say what a container's root file system is."""
    return f"overlay that writes to {writable}/upper"


def port_text(bridge: str) -> str:
    """Say what the host's end of a pod's interface is."""
    return f"in bridge {bridge}"


def bridge_text(addresses: Iterable[str]) -> str:
    """Say what a bridge is."""
    return "bridge, up, " + ", ".join(sorted(addresses))


def namespace_text(wanted: str) -> str:
    """Say which namespace a process is to be in."""
    return wanted if wanted in (THE_HOSTS, ITS_OWN) else f"that of {wanted}"


def layer_name(chain_id: Digest | str) -> str:
    """Name a layer as its directory does."""
    return str(chain_id).removeprefix("sha256:")
