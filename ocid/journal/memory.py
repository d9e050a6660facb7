"""The log in memory, for simulations and tests: the writer and feed of the real one, without threads or files.

Records go through the real codec, so what comes back after a crash is what bytes can carry. It is stricter than the
real one where strictness finds bugs: an event that is too large is an ``AssertionError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import ParamSpec, TypeVar

import msgspec
import trio

from ocid.domain.confidential import Confidential
from ocid.domain.merkle import Frontier
from ocid.errors import Erased, NotFound
from ocid.events import codec
from ocid.events.base import Event
from ocid.events.envelope import Envelope
from ocid.ids import Digest, PodId, StreamId
from ocid.journal.pending import Pending, Snapshot, VersionConflict
from ocid.journal.writer import Writer
from ocid.ports import Clock

A = ParamSpec("A")
R = TypeVar("R")


class Crash(Exception):
    """The daemon dies here, as far as the simulation is concerned. Whoever runs it catches this outside of it."""


class Disk(msgspec.Struct):
    """What outlives the daemon."""

    records: list[bytes] = msgspec.field(default_factory=list)
    streams: dict[StreamId, list[int]] = msgspec.field(default_factory=dict)  # seqs, by version - 1
    documents: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    confidences: dict[Digest, Confidential | tuple[PodId, int]] = msgspec.field(default_factory=dict)  # or the erasure
    snapshots: dict[str, list[tuple[bytes, Snapshot]]] = msgspec.field(default_factory=dict)
    epoch: int = 0
    commits: int = 0  # over all lives

    def readable(self) -> Iterator[bytes]:
        """Yield every record and every text that can be read, confidential ones too: where no secret may be."""
        yield from self.records
        yield from self.documents.values()
        yield from (one.text for one in self.confidences.values() if isinstance(one, Confidential))


class MemoryLog:
    """Implements ``Log``: one life of the daemon on a ``Disk``. Each life makes a new one on the same disk."""

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        boot_id: str = "00000000-0000-4000-8000-000000000000",
        before_commit: Callable[[int], None] | None = None,
        after_commit: Callable[[int], None] | None = None,
    ) -> None:
        """Begin a life.

        Args:
            disk: what the life before left; None for an empty one.
            boot_id: of the machine's present boot.
            before_commit: called with the number of the commit, from 1 over all lives, before it is durable. It may
                raise ``Crash``, or what a disk would, such as ``OSError``.
            after_commit: called when it is durable and nobody has been told.
        """
        self.disk = Disk() if disk is None else disk
        self.disk.epoch += 1
        self.boot_id = boot_id
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._failed = False

    @property
    def epoch(self) -> int:
        """Which life of the daemon this is, from 1."""
        return self.disk.epoch

    def append_batch(self, batch: Sequence[Pending], wall_ns: int, boot_ns: int) -> list[tuple[Envelope, ...]]:
        """See ``ocid.journal.store.Store.append_batch``."""
        assert not self._failed, "a commit failed: the daemon should have ended"
        seq, prev = self.last()
        versions: dict[StreamId, int] = {}
        written = []
        records = []
        for index, pending in enumerate(batch):
            version = versions.get(pending.stream, len(self.disk.streams.get(pending.stream, ())))
            if version != pending.expected_version:
                raise VersionConflict(index, pending, version)
            envelopes = []
            for event in pending.events:
                seq += 1
                version += 1
                kind, kind_version = codec.name_of(event)
                envelope = Envelope(
                    seq=seq,
                    stream=pending.stream,
                    version=version,
                    type=kind,
                    type_version=kind_version,
                    wall_ns=wall_ns,
                    boot_ns=boot_ns,
                    boot_id=self.boot_id,
                    epoch=self.epoch,
                    context=pending.context,
                    event=event,
                )
                record = codec.encode(envelope, prev)
                prev = codec.hash_of(record)
                records.append(record)
                envelopes.append(envelope)
            versions[pending.stream] = version
            written.append(tuple(envelopes))
        self._commit(batch, written, records)
        return written

    def _commit(self, batch: Sequence[Pending], written: list[tuple[Envelope, ...]], records: list[bytes]) -> None:
        """Make it all durable at once, or nothing, as the hooks will have it."""
        self._failed = True  # until it is known to have gone well
        self.disk.commits += 1
        if self._before_commit is not None:
            self._before_commit(self.disk.commits)
        for envelopes in written:
            for envelope in envelopes:
                self.disk.streams.setdefault(envelope.stream, []).append(envelope.seq)
        self.disk.records += records
        for pending, envelopes in zip(batch, written, strict=True):
            self.disk.documents.update((sha256(document).digest(), document) for document in pending.documents)
            for one in pending.confidences:
                self.disk.confidences.setdefault(one.digest, one)
            for digest, one in self._of(pending.erases):
                self.disk.confidences[digest] = (one.pod_id, envelopes[0].seq)
        if self._after_commit is not None:
            self._after_commit(self.disk.commits)
        self._failed = False

    def last(self) -> tuple[int, bytes]:
        """See ``Log``."""
        records = self.disk.records
        return len(records), codec.hash_of(records[-1]) if records else codec.NO_HASH

    def head(self) -> Frontier:
        """See ``Log``."""
        frontier = Frontier()
        for record in self.disk.records:
            frontier.append(codec.hash_of(record))
        return frontier

    def read(self, from_seq: int, limit: int) -> list[Envelope]:
        """See ``Log``."""
        start = max(from_seq, 1) - 1
        return [codec.decode(record) for record in self.disk.records[start : start + limit]]

    def read_stream(self, stream: StreamId, after_version: int = 0) -> list[Envelope]:
        """See ``Log``."""
        seqs = self.disk.streams.get(stream, [])[after_version:]
        return [codec.decode(self.disk.records[seq - 1]) for seq in seqs]

    def document(self, digest: Digest) -> bytes:
        """See ``Log``."""
        found = self.disk.documents.get(bytes.fromhex(digest.removeprefix("sha256:")))
        if found is not None:
            return found
        confidential = self.disk.confidences.get(digest)
        if confidential is None:
            raise NotFound("document", digest)
        if isinstance(confidential, tuple):
            raise Erased(digest, *confidential)
        return confidential.text

    def confidences(self, pod_id: PodId) -> int:
        """See ``Log``."""
        return len(self._of(pod_id))

    def sweep_erased(self, limit: int) -> int:
        """See ``Log``. Here nothing is left of them."""
        return 0

    def _of(self, pod_id: PodId | None) -> list[tuple[Digest, Confidential]]:
        kept = self.disk.confidences.items()
        return [(digest, one) for digest, one in kept if isinstance(one, Confidential) and one.pod_id == pod_id]

    def snapshot(self, name: str, schema_hash: bytes) -> Snapshot | None:
        """See ``Log``."""
        kept = self.disk.snapshots.get(name, [])
        return next((snapshot for schema, snapshot in reversed(kept) if schema == schema_hash), None)

    def put_snapshot(self, name: str, schema_hash: bytes, seq: int, state: bytes) -> None:
        """See ``Log``."""
        assert 0 < seq <= len(self.disk.records), f"snapshot of {name!r} at {seq}, beyond the end of the log"
        kept = [each for each in self.disk.snapshots.get(name, []) if each[1].seq != seq]
        kept = sorted([*kept, (schema_hash, Snapshot(seq, state))], key=lambda each: each[1].seq)
        self.disk.snapshots[name] = kept[-2:]


class Inline:
    """A ``Runner`` without threads. A commit takes *commit_s* on Trio's clock, which may be a virtual one."""

    def __init__(self, commit_s: float = 0.0) -> None:
        self._commit_s = commit_s

    async def write(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """See ``Runner``. Others run before it is done, as with a real disk."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(self._commit_s)
        return function(*args, **kwargs)

    async def read(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """See ``Runner``."""
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    def close(self) -> None:
        """Nothing to end."""


def memory_journal(
    log: MemoryLog, clock: Clock, *, commit_s: float = 0.0, scrub: Callable[[Event], Event] = lambda event: event
) -> Writer:
    """Return a journal over *log* that needs no threads, so it can run under ``MockClock`` with autojump."""
    return Writer(log, clock, runner=lambda: Inline(commit_s), strict=True, scrub=scrub)
