"""``ocid-replay diff``: what was added, removed and changed between two moments, by whom, and in which records."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from ocid.errors import InvalidRequest
from ocid.events import container, image, pod
from ocid.events.envelope import Envelope
from ocid.ids import Digest
from ocid.journal.looking import envelopes, look, peers
from ocid.projections import summary
from ocid.projections.text import exact_time_text, short, time_text
from ocid.projections.view import View

from . import output, partial
from .attribution import Peer, attribute, brief, facts as attribution_facts
from .exits import OK
from .lookup import Lookup, Stored
from .moments import Moment, parse_moment
from .reading import log_directory

COLUMNS: Final = ("", "KIND", "ID", "NAME", "CHANGE", "SEQ", "TIME(UTC)", "WHO")
_BIRTHS: Final = (pod.Declared, container.Declared, image.ImageAdded)
_DEATHS: Final = (pod.Removed, container.Removed, image.ImageRemoved)

Key = tuple[str, str]  # kind, id


class Shown(msgspec.Struct, frozen=True):
    """One thing as a list shows it."""

    name: str
    fields: dict[str, str]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was."""

    sign: str  # "+" added, "-" removed, "~" changed, "±" came and went
    kind: str  # "pod", "container", "image"
    id: str
    name: str
    change: str
    seq: int  # of the record that did it
    time: str
    wall_ns: int
    asked_by: dict[str, Any]
    who: str


class Window(msgspec.Struct):
    """What a log that goes by shows at two moments, and the records in between that made the difference."""

    before: dict[Key, Shown] = {}
    after: dict[Key, Shown] = {}
    first_seq: int = 0  # of the last record of the first moment; 0 where nothing was before it
    last_seq: int = 0
    deeds: dict[Key, Envelope] = {}  # the record that changed a thing last
    births: dict[Key, Envelope] = {}
    names: dict[Key, str] = {}
    unknown: int = 0


def run(args: argparse.Namespace) -> int:
    """Print the differences between ``args.first`` and ``args.second``."""
    now_ns = time.time_ns()
    first, second = parse_moment(args.first, now_ns), parse_moment(args.second, now_ns)
    with look(log_directory(args)) as reader:
        for moment in (first, second):
            if moment.seq > (last := reader.last_seq()):
                raise InvalidRequest(f"record {moment.seq} is not in the log, which ends at {last}")
        window = watch(envelopes(reader), first, second, reader.document)
        partial.require_state(reader, window.first_seq)
        found = list(differences(window, Stored(reader), peers(reader)))
    document = {
        "from_seq": window.first_seq,
        "to_seq": window.last_seq,
        "unknown_events": window.unknown,
        "differences": msgspec.to_builtins(found),
    }
    if args.output == "table":
        output.listed("table", "differences", found, COLUMNS, map(row, found))
    else:
        output.told(args.output, document, ())
    return OK


def watch(
    log: Iterable[Envelope], first: Moment, second: Moment, document: Callable[[Digest], bytes] = lambda _: b"{}"
) -> Window:
    """Fold *log* up to both moments. Pure but for *document*.

    Raises:
        InvalidRequest: the first moment is after the second.
    """
    view, window = View(document), Window()
    begun = False
    for envelope in log:
        if not begun and first.is_over(envelope):
            window.before, window.first_seq, begun = picture(view), view.seq, True
        if second.is_over(envelope):
            if not begun:
                raise InvalidRequest("the first moment comes after the second one in this log: exchange them")
            break
        key = _key(envelope)
        was = _phase(view, key) if begun else None
        view.apply(envelope)
        if begun and key is not None:
            _note(window, key, envelope, changed=was != _phase(view, key))
    if not begun:
        window.before, window.first_seq = picture(view), view.seq
    window.after, window.last_seq, window.unknown = picture(view), view.seq, view.unknown
    return window


def differences(window: Window, log: Lookup, peer: Peer) -> Iterator[Difference]:
    """Yield what differs, in order of the records that did it."""
    found = [*_between(window), *_passing(window)]
    for sign, key, name, change, envelope in sorted(found, key=lambda one: one[4].seq):
        attributed = attribute(envelope, log)
        yield Difference(
            sign=sign,
            kind=key[0],
            id=key[1],
            name=name,
            change=change,
            seq=envelope.seq,
            time=exact_time_text(envelope.wall_ns),
            wall_ns=envelope.wall_ns,
            asked_by=attribution_facts(attributed, peer),
            who=brief(attributed, peer),
        )


def row(one: Difference) -> tuple[str, ...]:
    """Return its row. Pure."""
    return one.sign, one.kind, short(one.id), one.name, one.change, str(one.seq), time_text(one.wall_ns), one.who


def picture(view: View) -> dict[Key, Shown]:
    """Return everything that lists would show. Pure."""
    shown: dict[Key, Shown] = {}
    for each in summary.pods(view):
        fields = {"state": each.state, "addresses": " ".join(each.addresses), "reason": each.reason}
        shown["pod", each.id] = Shown(f"{each.namespace}/{each.name}", fields)
        for inner in each.containers:
            shown["container", inner.id] = _container(inner, f"{each.name}/{inner.name}")
    shown.update({("container", each.id): _container(each, each.name) for each in summary.strays(view)})
    for of_image in summary.images(view):
        name = next(iter(of_image.names), "")
        shown["image", of_image.id] = Shown(name, {"names": " ".join(of_image.names)})
    return shown


def _container(line: summary.ContainerLine, name: str) -> Shown:
    state = line.state if line.exit_code is None else f"{line.state}({line.exit_code})"
    reason = "" if line.reason in ("Completed", "Error") else line.reason
    return Shown(name, {"state": state, "reason": reason, "image": line.image_id})


def _between(window: Window) -> Iterator[tuple[str, Key, str, str, Envelope]]:
    for key in window.before.keys() | window.after.keys():
        before, after = window.before.get(key), window.after.get(key)
        envelope = window.deeds.get(key)
        if before is None and after is not None:
            envelope = window.births.get(key, envelope)
            sign, name, change = "+", after.name, _text(after)
        elif before is not None and after is None:
            sign, name, change = "-", before.name, f"was {_text(before)}"
        elif before is not None and after is not None and before.fields != after.fields:
            sign, name, change = "~", after.name, _changes(before, after)
        else:
            continue
        if envelope is not None:
            yield sign, key, name, change, envelope


def _passing(window: Window) -> Iterator[tuple[str, Key, str, str, Envelope]]:
    for key, envelope in window.births.items():
        if key not in window.before and key not in window.after:
            last = window.deeds.get(key, envelope)
            yield "±", key, window.names.get(key, ""), f"added in {envelope.seq}, gone after {last.seq}", envelope


def _text(shown: Shown) -> str:
    return " ".join(value for name, value in shown.fields.items() if value and name != "image")


def _changes(before: Shown, after: Shown) -> str:
    changed = [name for name in after.fields if before.fields.get(name, "") != after.fields[name]]
    return ", ".join(f"{name} {before.fields.get(name) or 'none'} → {after.fields[name] or 'none'}" for name in changed)


def _key(envelope: Envelope) -> Key | None:
    kind, _, name = envelope.stream.partition("/")
    if kind in ("pod", "container"):
        return kind, name
    match envelope.event:
        case image.ImageAdded(image_id=image_id) | image.ImageNamed(image_id=image_id):
            return "image", image_id
        case image.ImageRemoved(image_id=image_id):
            return "image", image_id
        case _:
            return None


def _phase(view: View, key: Key | None) -> object:
    """Return what of a thing's state a list would show; cheap, for it is asked at every record."""
    if key is None or key[0] == "image":
        return object()  # every record of an image changes it
    if key[0] == "pod":
        of_pod = view.pods.rows.get(key[1])
        return None if of_pod is None else (of_pod.state.phase, of_pod.state.attached, of_pod.state.detached)
    of_container = view.containers.rows.get(key[1])
    return None if of_container is None else of_container.state.phase


def _note(window: Window, key: Key, envelope: Envelope, *, changed: bool) -> None:
    if isinstance(envelope.event, _BIRTHS):
        window.births[key] = envelope
        match envelope.event:
            case pod.Declared(namespace=namespace, name=name):
                window.names[key] = f"{namespace}/{name}"
            case container.Declared(name=name):
                window.names[key] = name
            case _:
                pass
    if changed or isinstance(envelope.event, _DEATHS):
        window.deeds[key] = envelope
