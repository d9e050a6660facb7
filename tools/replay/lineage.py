"""``ocid-replay lineage``: where what a container runs came from, from the reference to the specification."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from ocid.domain import manifest as manifests
from ocid.errors import NotFound, OcidError
from ocid.events import base, container, image, layer
from ocid.events.codec import Damaged
from ocid.events.envelope import Envelope
from ocid.ids import Digest
from ocid.journal.looking import look, peers
from ocid.journal.reader import Reader
from ocid.projections.fields import fields
from ocid.projections.selection import Selection
from ocid.projections.text import exact_time_text, size

from . import output
from .attribution import Peer, attribute, in_full
from .exits import OK
from .lookup import Lookup, Stored
from .meaning import find_container
from .output import cited
from .reading import log_directory, selected

# Names of events that would say something of signatures; none is known to this build, later ones may write them.
SIGNATURE_GLOBS: Final = ("*signature*", "*.verified", "*.policy*", "*.unverified")
_PEER_FIELDS: Final = ("tls_peer", "tls", "certificate", "peer_certificate")

Document = Callable[[Digest], bytes]


class LayerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One layer, the base first."""

    chain_id: str
    digest: str  # of the blob, as the manifest has it; "" where that is not known
    diff_id: str
    blob_bytes: int
    unpacked_bytes: int | None
    wanted_seq: int  # 0 where the log does not have it
    ready_seq: int
    ready_at: str
    pull_id: str
    reference: str  # of the pull that brought it, which may be another image's


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``lineage`` prints."""

    container_id: str
    container: str
    declared_seq: int
    asked_by: str
    image_ref: str
    image_id: str
    manifest: str
    names: list[dict[str, Any]]  # that pointed to the image when the container was asked for, with their records
    pull: dict[str, Any] | None  # None where no pull of it is in the log
    layers: list[LayerLine]
    layers_note: str  # "" where all are there
    signature: dict[str, Any]
    spec: str  # "" where it was never prepared
    spec_seq: int
    adjusted: list[dict[str, Any]]
    restored_from: dict[str, Any] | None


def run(args: argparse.Namespace) -> int:
    """Print the lineage of ``args.container``."""
    with look(log_directory(args)) as reader:
        subject = find_container(reader, args.container)
        log = Stored(reader)
        own = log.stream(subject.stream)
        pulls, verdicts = _of_images(reader, own[0])
        found = trace(own, pulls, verdicts, log, peers(reader), reader.document)
    output.told(args.output, msgspec.to_builtins(found), text(found))
    return OK


def _of_images(reader: Reader, declared: Envelope) -> tuple[list[Envelope], list[Envelope]]:
    """Return the resolved pulls before *declared*, and everything that says something of signatures."""
    pulls: list[Envelope] = []
    verdicts: list[Envelope] = []
    wanted = Selection(types=(image.PullResolved.TYPE, *SIGNATURE_GLOBS), to_seq=declared.seq)
    for each in selected(reader, wanted):
        (pulls if each.type == image.PullResolved.TYPE else verdicts).append(each)
    return pulls, verdicts


def tells_of_signatures(kind: str) -> bool:
    """Say whether events of the type *kind* could hold a verdict on a signature. Pure."""
    return any(fnmatch.fnmatchcase(kind, glob) for glob in SIGNATURE_GLOBS)


def trace(
    own: Sequence[Envelope],
    pulls: Iterable[Envelope],
    verdicts: Sequence[Envelope],
    log: Lookup,
    peer: Peer,
    document: Document,
) -> Lineage:
    """Return where the container of the events *own* came from. Pure but for what reads the log.

    Args:
        own: the events of its stream.
        pulls: the ``pull.resolved`` records before it.
        verdicts: records that may be verdicts on signatures.
        log: to look at the streams of pulls, layers and the catalog.
        peer: finds who asked.
        document: reads what events cite.
    Raises:
        NotFound: the first event is no declaration: the log begins later.
    """
    declared = own[0].event
    if not isinstance(declared, container.Declared):
        raise NotFound("declaration of container", own[0].stream)
    resolved = next((one for one in reversed(list(pulls)) if _is_of(one, declared)), None)
    layers, note = _layers(declared, own[0].seq, log, document)
    prepared = next((one for one in own if isinstance(one.event, container.Prepared)), None)
    return Lineage(
        container_id=declared.container_id,
        container=declared.name,
        declared_seq=own[0].seq,
        asked_by=in_full(attribute(own[0], log), peer),
        image_ref=declared.image_ref,
        image_id=declared.image_id,
        manifest=declared.image_manifest,
        names=_names(declared, own[0].seq, log),
        pull=None if resolved is None else _pull(resolved, log, peer),
        layers=layers,
        layers_note=note,
        signature=_signature(declared, resolved, verdicts),
        spec=prepared.event.spec if prepared and isinstance(prepared.event, container.Prepared) else "",
        spec_seq=0 if prepared is None else prepared.seq,
        adjusted=[
            {"seq": one.seq, "plugins": list(one.event.plugins), "changes": one.event.changes}
            for one in own
            if isinstance(one.event, container.Adjusted)
        ],
        restored_from=None if declared.restores is None else msgspec.to_builtins(declared.restores),
    )


def _is_of(one: Envelope, declared: container.Declared) -> bool:
    return isinstance(one.event, image.PullResolved) and one.event.image_id == declared.image_id


def _names(declared: container.Declared, before_seq: int, log: Lookup) -> list[dict[str, Any]]:
    """Return the names that pointed to the image then."""
    names: dict[str, tuple[str, int]] = {}
    for one in log.stream(image.CATALOG):
        if one.seq >= before_seq:
            break
        match one.event:
            case image.ImageNamed(image_id=image_id, name=name):
                names[name] = (image_id, one.seq)
            case image.ImageRemoved(image_id=removed):
                names = {name: of for name, of in names.items() if of[0] != removed}
            case _:
                pass
    return [{"name": name, "seq": seq} for name, (image_id, seq) in names.items() if image_id == declared.image_id]


def _pull(resolved: Envelope, log: Lookup, peer: Peer) -> dict[str, Any]:
    """Return what is recorded of a pull: what was asked for, by whom, and who answered."""
    event = resolved.event
    assert isinstance(event, image.PullResolved), "only these are looked at"
    stream = log.stream(resolved.stream)
    asked = stream[0]
    recorded = fields(event)
    of_tls = next((recorded[name] for name in _PEER_FIELDS if recorded.get(name)), None)
    plain = event.endpoint.startswith("http://")
    completed = next((one for one in stream if isinstance(one.event, image.PullCompleted)), None)
    return {
        "seq": asked.seq,
        "time": exact_time_text(asked.wall_ns),
        "reference": asked.event.reference if isinstance(asked.event, image.PullRequested) else "",
        "with_credentials": isinstance(asked.event, image.PullRequested) and asked.event.with_credentials,
        "asked_by": in_full(attribute(asked, log), peer),
        "resolved_seq": resolved.seq,
        "manifest": event.manifest,
        "index": event.index,
        "image_id": event.image_id,
        "endpoint": event.endpoint,
        "tls_peer": of_tls if of_tls is not None else ("none: plain HTTP" if plain else "not recorded"),
        "completed_seq": 0 if completed is None else completed.seq,
    }


def _layers(
    declared: container.Declared, before_seq: int, log: Lookup, document: Document
) -> tuple[list[LayerLine], str]:
    """Return the image's layers, the base first; and what is missing to say more."""
    try:
        config = document(Digest(declared.image_id))
        diffs = manifests.diff_ids(config)
    except (OcidError, Damaged) as error:
        return [], f"not known: the image's configuration is not in the log ({error})"
    blobs: list[tuple[str, int]] = [("", 0)] * len(diffs)
    note = ""
    try:
        listed = manifests.parse(document(declared.image_manifest))
        if isinstance(listed, manifests.Manifest) and len(listed.layers) == len(diffs):
            blobs = [(one.digest, one.size_bytes) for one in listed.layers]
    except (OcidError, Damaged) as error:
        note = f"digests of blobs are those of the pulls: the manifest is not in the log ({error})"
    chain = manifests.chain_ids(diffs)
    return [
        _layer(chain_id, diff_id, blob, log.stream(f"layer/{chain_id}"), before_seq, log)
        for chain_id, diff_id, blob in zip(chain, diffs, blobs, strict=True)
    ], note


def _layer(
    chain_id: str, diff_id: str, blob: tuple[str, int], stream: Sequence[Envelope], before_seq: int, log: Lookup
) -> LayerLine:
    earlier = [one for one in stream if one.seq < before_seq]
    wanted = next((one for one in reversed(earlier) if isinstance(one.event, layer.Wanted)), None)
    ready = next((one for one in reversed(earlier) if isinstance(one.event, layer.Ready)), None)
    event = wanted.event if wanted is not None else None
    want = event if isinstance(event, layer.Wanted) else None
    first = log.first(f"pull/{want.pull_id}") if want is not None else None
    asked = first.event if first is not None else None
    made = ready.event if ready is not None else None
    return LayerLine(
        chain_id=chain_id,
        digest=blob[0] or (want.blob if want is not None else ""),
        diff_id=diff_id,
        blob_bytes=blob[1] or (want.blob_bytes if want is not None else 0),
        unpacked_bytes=made.size_bytes if isinstance(made, layer.Ready) else None,
        wanted_seq=0 if wanted is None else wanted.seq,
        ready_seq=0 if ready is None else ready.seq,
        ready_at="" if ready is None else exact_time_text(ready.wall_ns),
        pull_id="" if want is None else want.pull_id,
        reference=asked.reference if isinstance(asked, image.PullRequested) else "",
    )


def _signature(declared: container.Declared, resolved: Envelope | None, verdicts: Sequence[Envelope]) -> dict[str, Any]:
    """Return what the log says of the image's signatures: what it has, or that it has nothing, and why."""
    about = {declared.image_id, declared.image_manifest}
    mine = [
        one
        for one in verdicts
        if (resolved is not None and one.stream == resolved.stream)
        or about & {value for value in fields(one.event).values() if isinstance(value, str)}
    ]
    if mine:
        return {
            "verdict": "recorded",
            "policy": next((fields(one.event)["policy"] for one in mine if "policy" in fields(one.event)), None),
            "records": [{"seq": one.seq, "type": one.type, "fields": fields(one.event)} for one in mine],
        }
    known = sorted(kind for kind in base.REGISTRY if tells_of_signatures(kind))
    why = "no record is a verdict on this image" if known else "this build checks no signatures"
    return {"verdict": f"not verified: {why}", "policy": None, "records": []}


def text(found: Lineage) -> Iterator[str]:
    """Yield it as lines. Pure."""
    yield f"container  {found.container} {found.container_id} [{found.declared_seq}]"
    yield f"           asked for by {found.asked_by}"
    yield f"reference  {found.image_ref}"
    for name in found.names:
        yield f"           named {name['name']} [{name['seq']}]"
    yield f"image      {found.image_id}"
    yield f"manifest   {found.manifest}"
    if found.pull is None:
        yield "pull       not in the log: it came before the log began, or as something else than a pull"
    else:
        yield from _pull_lines(found.pull)
    for number, one in enumerate(found.layers):
        yield from _layer_lines(number, one)
    if found.layers_note:
        yield f"layers     {found.layers_note}"
    yield f"signature  {found.signature['verdict']} {cited(one['seq'] for one in found.signature['records'])}".rstrip()
    yield f"policy     {found.signature['policy'] or 'none recorded'}"
    for change in found.adjusted:
        yield f"plugins    {', '.join(change['plugins'])} changed it, see {change['changes']} [{change['seq']}]"
    if found.restored_from is not None:
        yield f"restored   from a container checkpoint, {found.restored_from['digest']} [{found.declared_seq}]"
    yield f"spec       {found.spec} [{found.spec_seq}]" if found.spec else "spec       it was never prepared"


def _pull_lines(pull: dict[str, Any]) -> Iterator[str]:
    yield f"pull       {pull['reference']} at {pull['time']} [{pull['seq']}]"
    yield f"           asked for by {pull['asked_by']}{', with credentials' if pull['with_credentials'] else ''}"
    yield f"registry   {pull['endpoint']} answered [{pull['resolved_seq']}]; its TLS peer: {pull['tls_peer']}"
    if pull["index"]:
        yield f"           chosen from index {pull['index']}"


def _layer_lines(number: int, one: LayerLine) -> Iterator[str]:
    yield f"layer {number:<4} {one.digest or 'blob not known'}, {size(one.blob_bytes)}"
    yield f"           diff id {one.diff_id}"
    if not one.wanted_seq:
        yield "           where it came from is not in the log"
        return
    made = f", ready {one.ready_at} [{one.ready_seq}]" if one.ready_seq else ", never ready"
    yield f"           by the pull of {one.reference or one.pull_id} [{one.wanted_seq}]{made}"
