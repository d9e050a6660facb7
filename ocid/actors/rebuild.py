"""After a damaged log was set aside: what still lived in its good part begins the new one.

Nothing is invented. Streams whose events are all there, up to the last good record, are written again as they were,
under one correlation that names the old log; recovery then compares them with the host as at any other start. What
cannot be read any more stays on the host without a stream, and is reported as an orphan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec
import trio

from ocid.domain.confidential import Document, text_of
from ocid.domain.configs import ContainerConfig
from ocid.errors import NotFound
from ocid.events import codec, container
from ocid.events.base import Event, Opaque
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, StreamId
from ocid.journal import salvage
from ocid.journal.opening import Quarantined
from ocid.ports import Journal
from ocid.projections.view import View

log = logging.getLogger(__name__)

EVENTS_MAX = 128  # of one append

_CITING = (
    "config", "image_manifest", "spec", "argv", "result", "manifest", "index", "change", "changes", "before", "limits",
    "overhead", "resources",
)  # fmt: skip


async def rebuild(
    journal: Journal, envelopes: Iterable[Envelope], documents: Mapping[Digest, Document], source: str
) -> int:
    """Write the living streams of *envelopes*, which come in order and without gaps, again; return how many."""

    def document(digest: Digest) -> bytes:
        try:
            return text_of(documents[digest])
        except KeyError:
            raise NotFound("document", digest) from None

    view, streams = View(document), dict[StreamId, list[Event]]()
    for envelope in envelopes:
        view.apply(envelope)
        streams.setdefault(envelope.stream, []).append(envelope.event)
        if _is_first(envelope) and len(streams[envelope.stream]) > 1:
            streams[envelope.stream] = [envelope.event]
    context = Context(correlation=f"rebuilt from {source}")
    kept = 0
    for aggregate, fold in view.living():
        for name in fold.rows:
            stream = StreamId(f"{aggregate}/{name}")
            events = streams[stream]
            needed = {digest for event in events for digest in _digests(event)}
            needed |= _of_mounted_images(events, documents)
            if any(isinstance(event, Opaque) for event in events) or not needed <= documents.keys():
                log.warning("stream %s of the damaged log cannot be read in full and is not taken over", stream)
                continue
            await _write(journal, stream, events, [documents[digest] for digest in sorted(needed)], context)
            kept += 1
    return kept


async def _write(
    journal: Journal, stream: StreamId, events: list[Event], documents: list[Document], context: Context
) -> None:
    version = 0
    for start in range(0, len(events), EVENTS_MAX):
        part = events[start : start + EVENTS_MAX]
        await journal.append(stream, version, part, context, documents if start == 0 else ())
        version += len(part)


def _is_first(envelope: Envelope) -> bool:
    """A layer's stream may begin again after it was over; only its newest life counts."""
    return envelope.type == "layer.wanted"


def _of_mounted_images(events: Iterable[Event], documents: Mapping[Digest, Document]) -> set[Digest]:
    """Return the configurations of images that containers mount: what says which layers must stay."""
    declared = (event for event in events if isinstance(event, container.Declared))
    found = (documents.get(one.config) for one in declared)
    configs = (msgspec.json.decode(text_of(one), type=ContainerConfig) for one in found if one is not None)
    return {Digest(image_id) for config in configs for image_id in config.mounted_images}


def _digests(event: Event) -> Iterable[Digest]:
    """Yield the documents that an event cites; by the rule that such fields are called so."""
    for field in _CITING:
        value = getattr(event, field, None)
        if isinstance(value, str) and value.startswith("sha256:"):
            yield Digest(value)


async def take_over(aside: Quarantined | None, journal: Journal) -> None:
    """Begin with what lived in the good part of a damaged log that was set aside; None when there is none."""
    if aside is None:
        return
    log.error("the log was damaged (%s) and set aside at %s", aside.reason, aside.path)
    records = await trio.to_thread.run_sync(salvage.records_of, aside.path, aside.last_good_seq)
    plain = await trio.to_thread.run_sync(salvage.documents_of, aside.path)
    confidences = await trio.to_thread.run_sync(salvage.confidences_of, aside.path)
    documents: dict[Digest, Document] = {**confidences, **plain}
    envelopes = (codec.decode(records[seq]) for seq in sorted(records))
    kept = await rebuild(journal, envelopes, documents, str(aside.path))
    log.error("%d streams of the damaged log were taken over, as of its record %d", kept, aside.last_good_seq)
