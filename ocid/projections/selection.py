"""Which records of the log somebody wants to see: by pod, container, stream, type, time, place or asker. Pure.

Events of a container carry their container's id only, those of an exec not even their pod's, so membership is learned
from the log as it goes by: a ``Kinship`` must see every record that comes before the ones it is asked about.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from ocid.errors import InvalidRequest
from ocid.events import container, image, kin, pod
from ocid.events.envelope import Envelope
from ocid.events.node import PeerSeen, UnusualCall

S: Final = 1_000_000_000  # nanoseconds
_UNITS: Final = {"ms": S // 1000, "s": S, "m": 60 * S, "h": 3600 * S, "d": 86_400 * S, "w": 7 * 86_400 * S}
_RELATIVE: Final = re.compile(r"-?([0-9]{1,12})(ms|s|m|h|d|w)(?: ?ago)?")


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What to see; the empty one selects everything, and all conditions must hold."""

    pod: str = ""  # id, its beginning, name, or namespace/name; its containers' and execs' events belong to it
    container: str = ""  # id, its beginning, or name; its execs' events belong to it
    image: str = ""  # id, its beginning, or a name in full: its pulls, its place in the catalog, its containers' making
    stream: str = ""  # "pod/3f2c", "node", or a glob
    types: tuple[str, ...] = ()  # globs such as "container.*"; any of them
    since_ns: int = 0  # wall clock, inclusive
    until_ns: int = 0  # wall clock, exclusive; 0 for no end
    from_seq: int = 1
    to_seq: int = 0  # inclusive; 0 for no end
    who: str = ""  # socket client that asked: pid, name or path of its program, "uid:0", "login:1000"; "0": the daemon

    @property
    def needs_kin(self) -> bool:
        """Whether it takes knowing what belongs to whom."""
        return bool(self.pod or self.container or self.image)


class Family(msgspec.Struct, frozen=True):
    """Whom a stream belongs to; all empty for the node's own."""

    pod_id: str = ""
    container_id: str = ""


NOBODY: Final = Family()


class Kinship:
    """Learns from the log which pod and container each stream belongs to, and what they are called."""

    def __init__(self) -> None:
        self.pod_names: dict[str, str] = {}  # id → namespace/name
        self.container_names: dict[str, str] = {}  # id → name
        self._families: dict[str, Family] = {}  # stream → whom it belongs to
        self._pulls: dict[str, set[str]] = {}  # stream of a pull → what it asked for, and found
        self._image_names: dict[str, set[str]] = {}  # image id → every name that it ever had

    def learn(self, envelope: Envelope) -> None:
        """Take in one record."""
        match envelope.event:
            case pod.Declared() as declared:
                self.pod_names[declared.pod_id] = f"{declared.namespace}/{declared.name}"
                self._families[envelope.stream] = Family(declared.pod_id)
            case container.Declared() as declared:
                self.container_names[declared.container_id] = declared.name
                self._families[envelope.stream] = Family(declared.pod_id, declared.container_id)
            case image.PullRequested(reference=reference):
                self._pulls[envelope.stream] = {reference}
            case image.PullResolved(image_id=image_id):
                names = self._pulls.setdefault(envelope.stream, set())
                self._image_names.setdefault(image_id, set()).update(names)
                names.add(image_id)
            case image.ImageNamed(image_id=image_id, name=name):
                self._image_names.setdefault(image_id, set()).add(name)
            case event if (parent := kin.parent_of(event)) is not None:
                aggregate, _, name = parent.partition("/")
                alone = Family(pod_id=name) if aggregate == "pod" else NOBODY
                self._families[envelope.stream] = self._families.get(parent, alone)
            case _:
                pass

    def family(self, stream: str) -> Family:
        """Return whom *stream* belongs to, as far as the log has said."""
        return self._families.get(stream, NOBODY)

    def is_pod(self, pod_id: str, wanted: str) -> bool:
        """Say whether *wanted* means this pod."""
        name = self.pod_names.get(pod_id, "")
        return bool(pod_id) and (pod_id.startswith(wanted) or wanted in (name, name.partition("/")[2]))

    def is_container(self, container_id: str, wanted: str) -> bool:
        """Say whether *wanted* means this container."""
        return bool(container_id) and (
            container_id.startswith(wanted) or wanted == self.container_names.get(container_id)
        )

    def is_image(self, envelope: Envelope, wanted: str) -> bool:
        """Say whether a record is about the image that *wanted* means, as far as the log has said."""
        if envelope.stream in self._pulls:
            return any(self._means(wanted, each) for each in self._pulls[envelope.stream])
        image_id = getattr(envelope.event, "image_id", "")
        return bool(image_id) and self._means(wanted, image_id)

    def _means(self, wanted: str, id_or_name: str) -> bool:
        return (
            wanted == id_or_name
            or is_id(wanted, id_or_name)
            or any(wanted == name for name in self._image_names.get(id_or_name, ()))
        )


class Selector:
    """Applies a selection to a log that goes by from its beginning, or from ``from_seq`` where that is enough."""

    def __init__(self, selection: Selection, peer: Callable[[int], PeerSeen | None]) -> None:
        """*peer* returns the ``node.peer_seen`` event of a seq."""
        self.selection = selection
        self.kinship = Kinship()
        self._peer = peer
        self._types = re.compile("|".join(fnmatch.translate(glob) for glob in selection.types) or ".*", re.DOTALL)

    @property
    def first_seq(self) -> int:
        """The record to begin reading at, where all are read."""
        return 1 if self.selection.needs_kin else self.selection.from_seq

    def is_over(self, envelope: Envelope) -> bool:
        """Say whether nothing from *envelope* on can be wanted."""
        return bool(self.selection.to_seq) and envelope.seq > self.selection.to_seq

    def admits(self, envelope: Envelope) -> bool:
        """Take the next record in, and say whether it is wanted."""
        self.kinship.learn(envelope)
        wanted = self.selection
        if envelope.seq < wanted.from_seq or self.is_over(envelope):
            return False
        if envelope.wall_ns < wanted.since_ns or (wanted.until_ns and envelope.wall_ns >= wanted.until_ns):
            return False
        if wanted.types and not self.admits_type(envelope.type):
            return False
        if wanted.stream and not _is_stream(envelope.stream, wanted.stream):
            return False
        if wanted.who and not self._is_asker(envelope):
            return False
        if isinstance(envelope.event, UnusualCall) and wanted.needs_kin:
            return self._is_about(envelope.event)
        if wanted.image and not self.kinship.is_image(envelope, wanted.image):
            return False
        family = self.kinship.family(envelope.stream)
        if wanted.pod and not self.kinship.is_pod(family.pod_id, wanted.pod):
            return False
        return not wanted.container or self.kinship.is_container(family.container_id, wanted.container)

    def select(self, envelopes: Iterable[Envelope]) -> Iterator[Envelope]:
        """Yield the records that are wanted, of a log that goes by; stops after the last one that can be."""
        for envelope in envelopes:
            if self.is_over(envelope):
                return
            if self.admits(envelope):
                yield envelope
            if self.selection.to_seq == envelope.seq:
                return

    def admits_type(self, type: str) -> bool:
        """Say whether events of that type can be wanted."""
        return self._types.match(type) is not None

    def admits_asker(self, who: int) -> bool:
        """Say whether what this one asked for can be wanted.

        Args:
            who: as ``Context.who``.
        """
        if who == 0:
            return self.selection.who == "0"
        peer = self._peer(who)
        return peer is not None and is_peer(peer, self.selection.who)

    def _is_about(self, call: UnusualCall) -> bool:
        """Say whether a call was about what is wanted: by what it named, where that was not there yet."""
        wanted, named = self.selection, call.named
        if wanted.image and not (wanted.image == named or is_id(wanted.image, named)):
            return False
        family = self.kinship.family(call.subject)
        if wanted.pod and not self.kinship.is_pod(family.pod_id, wanted.pod):
            return not (call.subject or wanted.container) and wanted.pod in (named, named.partition("/")[2])
        return not wanted.container or self.kinship.is_container(family.container_id, wanted.container)

    def _is_asker(self, envelope: Envelope) -> bool:
        if isinstance(envelope.event, PeerSeen):
            return is_peer(envelope.event, self.selection.who)
        return self.admits_asker(envelope.context.who)


def is_peer(peer: PeerSeen, wanted: str) -> bool:
    """Say whether *wanted* means this socket client. See ``Selection.who``."""
    key, _, number = wanted.partition(":")
    if key in ("uid", "login") and number.isascii() and number.isdigit():
        return int(number[:10]) == (peer.uid if key == "uid" else peer.login_uid)
    if wanted.isascii() and wanted.isdigit():
        return int(wanted[:10]) == peer.pid
    return wanted in (peer.exe, peer.exe.rpartition("/")[2], peer.comm)


def is_id(wanted: str, image_id: str) -> bool:
    """Say whether *wanted* is the beginning of this image's id, with or without "sha256:"."""
    digits = wanted.removeprefix("sha256:")
    return bool(digits) and image_id.removeprefix("sha256:").startswith(digits)


def _is_stream(stream: str, wanted: str) -> bool:
    if any(char in wanted for char in "*?["):
        return fnmatch.fnmatchcase(stream, wanted)
    return stream == wanted or stream.startswith(wanted if "/" in wanted else f"{wanted}/")


def parse_time(text: str, now_ns: int) -> int:
    """Return a time in nanoseconds since the Unix epoch.

    Args:
        text: RFC 3339 ("2026-11-24T09:14:00Z", also without zone: UTC; also a date, or a time of today), "now", or so
            long before *now_ns*: "90s", "15m", "2h", "3d".
        now_ns: the wall clock.
    Raises:
        InvalidRequest: it is none of these.
    """
    stripped = text.strip()
    if stripped == "now":
        return now_ns
    if relative := _RELATIVE.fullmatch(stripped):
        return max(now_ns - int(relative[1]) * _UNITS[relative[2]], 0)
    if re.fullmatch(r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?Z?", stripped):
        stripped = f"{datetime.fromtimestamp(now_ns // S, UTC):%Y-%m-%d}T{stripped}"
    try:
        at = datetime.fromisoformat(stripped)
    except ValueError:
        raise InvalidRequest(
            f"time {text[:60]!r}: wanted RFC 3339 such as '2026-11-24T09:14:00Z', or '15m', '2h', '3d' ago"
        ) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    since_epoch = at - datetime(1970, 1, 1, tzinfo=UTC)
    return max((since_epoch.days * 86_400 + since_epoch.seconds) * S + since_epoch.microseconds * 1000, 0)
