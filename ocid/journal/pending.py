"""What the writer and its stores hand each other: a request to append, checked and encoded where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from ocid.domain.confidential import Beside, Confidential, Erasure, text_of
from ocid.domain.merkle import Frontier
from ocid.errors import Exhausted
from ocid.events import codec
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import Digest, PodId, StreamId

EVENTS_MAX: Final = 256  # in one append
DOCUMENT_BYTES_MAX: Final = 8 << 20  # an OCI manifest is at most 4 MiB
STREAM_BYTES_MAX: Final = 400  # LMDB keys hold 511 bytes
_OVERHEAD_BYTES_MAX: Final = 199  # of a record, beside its payload and the header's texts


class Pending(msgspec.Struct, frozen=True, gc=False):
    """Events to append to one stream, in one piece."""

    stream: StreamId
    expected_version: int
    events: tuple[Event, ...]
    payloads: tuple[bytes, ...]  # the events, encoded
    context: Context
    documents: tuple[bytes, ...]
    confidences: tuple[Confidential, ...] = ()
    erases: PodId | None = None  # the pod whose confidential texts go with the first of these events


class VersionConflict(AssertionError):
    """An append expected another version of its stream than there is: two writers for one stream, which is a bug."""

    def __init__(self, index: int, pending: Pending, version: int) -> None:
        super().__init__(f"stream {pending.stream!r} is at version {version}, not {pending.expected_version}")
        self.index = index  # in the batch


class Snapshot(msgspec.Struct, frozen=True):
    """A projection's state as of *seq*."""

    seq: int
    state: bytes


class Log(Protocol):
    """A log that one process writes: on disk (``store``) or in memory (``memory``)."""

    @property
    def epoch(self) -> int:
        """Which life of the daemon this is, from 1."""

    def append_batch(self, batch: Sequence[Pending], wall_ns: int, boot_ns: int) -> list[tuple[Envelope, ...]]:
        """Make all of *batch* durable, or nothing."""

    def last(self) -> tuple[int, bytes]:
        """Return seq and hash of the last record; (0, what record 1 cites) for an empty log."""

    def head(self) -> Frontier:
        """Return the Merkle tree over all records, as it is now."""

    def read(self, from_seq: int, limit: int) -> list[Envelope]:
        """Return up to *limit* records from *from_seq* on; fewer does not mean that there are no more, none does."""

    def read_stream(self, stream: StreamId, after_version: int = 0) -> list[Envelope]:
        """Return the events of *stream* after *after_version*."""

    def document(self, digest: Digest) -> bytes:
        """Return a document, confidential or not, or raise ``NotFound``; ``Erased`` where it was."""

    def confidences(self, pod_id: PodId) -> int:
        """Return how many confidential texts of a pod there are."""

    def sweep_erased(self, limit: int) -> int:
        """Delete up to *limit* encrypted texts that nobody can read any more; return how many."""

    def snapshot(self, name: str, schema_hash: bytes) -> Snapshot | None:
        """Return the newest snapshot of projection *name* that was made with this schema."""

    def put_snapshot(self, name: str, schema_hash: bytes, seq: int, state: bytes) -> None:
        """Keep a snapshot, and of the older ones of this name only the newest."""


def prepare(
    stream: StreamId,
    expected_version: int,
    events: Sequence[Event],
    context: Context,
    documents: Sequence[Beside] = (),
) -> Pending:
    """Encode *events* and check all limits, so that what a batch can fail with is nobody's request.

    Free text of events that would be too large is cut.

    Raises:
        Exhausted: an event or a document is too large all the same.
    """
    assert 0 < len(events) <= EVENTS_MAX, f"{len(events)} events in one append to {stream!r}"
    texts = sum(len(text.encode()) for text in (stream, context.correlation, context.command_id))
    assert 0 < len(stream.encode()) <= STREAM_BYTES_MAX, f"stream id {stream!r} is empty or too long"
    assert "\0" not in stream, f"stream id {stream!r} has a zero byte"
    for document in documents:
        size = 0 if isinstance(document, Erasure) else len(text_of(document))
        if size > DOCUMENT_BYTES_MAX:
            raise Exhausted(f"a document for {stream!r} has {size} bytes; the limit is {DOCUMENT_BYTES_MAX}")
    fitted = []
    payloads = []
    for event in events:
        payload = codec.payload_of(event)
        if len(payload) > codec.PAYLOAD_BYTES_MAX:
            event = codec.fit(event)
            payload = codec.payload_of(event)
        if (size := _OVERHEAD_BYTES_MAX + texts + len(event.TYPE) + len(payload)) > codec.RECORD_BYTES_MAX:
            raise Exhausted(
                f"the record of a {event.TYPE!r} for {stream!r} would have {size} bytes; the limit is "
                f"{codec.RECORD_BYTES_MAX}: move long fields to a document"
            )
        fitted.append(event)
        payloads.append(payload)
    plain = tuple(one for one in documents if isinstance(one, bytes))
    confidences = tuple(one for one in documents if isinstance(one, Confidential))
    erases = next((one.pod_id for one in documents if isinstance(one, Erasure)), None)
    return Pending(
        stream, expected_version, tuple(fitted), tuple(payloads), context, plain, confidences=confidences, erases=erases
    )
