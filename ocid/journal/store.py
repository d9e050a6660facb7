"""The log on disk: one LMDB environment in the 0.9 format, written by one thread, read by any process. No Trio here.

Databases, all in one transaction (few, for each costs every commit a path of pages)::

    ev  seq (8 bytes, big-endian)                  → record, see ``ocid.events.codec``
    st  stream ‖ 0x00 ‖ version (8 bytes)           → seq (8 bytes)
    ix  "c" ‖ stream ‖ 0x00 ‖ seq (8 bytes)         → stream that belongs to it and begins with this record
        "n" ‖ name ‖ 0x00 ‖ seq (8 bytes)           → stream of this record, which says that it bears the name
    bk  number of a block (8 bytes)                → what its 256 records have, see ``ocid.journal.blocks``
    dc  sha256 (32 bytes)                          → document
    lf  number of a block (8 bytes)                → its leaf hashes, where some of its records were trimmed
    se  pods' confidential texts, see ``ocid.journal.vault``
    mt  level (1 byte) ‖ index (8 bytes)           → hash of a complete subtree, see ``ocid.domain.merkle``
    sn  projection ‖ 0x00 ‖ seq (8 bytes)           → snapshot: msgpack of schema hash, sha256 of state, state
    mk  "format", "epoch", "boot", "genesis", "stop", "trimmed" → facts about the log itself

Commits are synchronous: what ``append_batch`` returned survives a power cut on a disk that keeps its promises. After a
failed commit the state of the pages is unknown, so the store refuses everything until it is opened again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from ocid.domain import merkle
from ocid.errors import Exhausted
from ocid.events import codec
from ocid.events.codec import NO_HASH
from ocid.events.envelope import Envelope
from ocid.ids import PodId, StreamId
from ocid.journal import blocks, indexing, trim, vault
from ocid.journal.environment import FORMAT, MAP_BYTES, U64, keys, node_key, stream_key
from ocid.journal.pending import Pending, VersionConflict
from ocid.journal.reader import Reader

READER_CHECK_S: Final = 30.0
VERSIONS_KEPT: Final = 4096  # streams whose last version is remembered; each command in a container is one
SNAPSHOTS_KEPT: Final = 2


class Store(Reader):
    """One log, open for writing, once at a time. Appending, snapshots and closing belong to one thread at a time."""

    def __init__(
        self,
        directory: Path,
        *,
        boot_id: str,
        map_bytes: int = MAP_BYTES,
        genesis: bytes = NO_HASH,
        epoch_before: int = 0,
    ) -> None:
        """Open the log in *directory*, or make one, and begin an epoch. ``ocid.journal.opening`` checks what to check.

        Args:
            directory: exists, 0700, locked, on a file system that ``ocid.journal.filesystem`` admits.
            boot_id: /proc/sys/kernel/random/boot_id.
            map_bytes: address space to reserve; less is taken where that much is not to be had.
            genesis: what record 1 of a new log cites.
            epoch_before: the epoch that a new log follows.
        Raises:
            Unsupported: the log was written in a format that this build does not read.
            Damaged: its last record is not what was written.
        """
        super().__init__(directory, map_bytes=map_bytes, readonly=False)
        self.boot_id = boot_id
        self._boot = bytes.fromhex(boot_id.replace("-", ""))
        self._failed = False
        self._versions: dict[StreamId, int] = {}
        self._fresh: set[bytes] | None = None
        self._reader_check_at = time.monotonic()
        try:
            self._last = super().last()
            self.epoch, self.last_boot_id, self.last_stop_ns = self._begin_epoch(genesis, epoch_before)
            self._tree = merkle.frontier_at(self._last[0], self.subtree)
            self._block = self._open_block()
        except BaseException:
            self._env.close()
            raise

    # --- writing ---

    def append_batch(self, batch: Sequence[Pending], wall_ns: int, boot_ns: int) -> list[tuple[Envelope, ...]]:
        """Make all of *batch* durable in one transaction and return its envelopes, or nothing.

        A full map is doubled once, while no reader is inside.

        Raises:
            VersionConflict: a request expected another version; nothing was written.
            Exhausted: the map is full and cannot grow; nothing was written.
            lmdb.Error: the commit failed. What is durable is unknown; the daemon must end.
        """
        assert not self._failed, "a commit failed: nothing is known of the log's pages until it is opened again"
        try:
            return self._append(batch, wall_ns, boot_ns)
        except lmdb.MapFullError:
            self._grow()
        try:
            return self._append(batch, wall_ns, boot_ns)
        except lmdb.MapFullError as error:
            self._failed = True
            raise Exhausted(
                f"the log in {str(self.directory)!r} is full: {self._env.info()['map_size']} bytes of address space "
                "are not enough for one batch more"
            ) from error

    def _append(self, batch: Sequence[Pending], wall_ns: int, boot_ns: int) -> list[tuple[Envelope, ...]]:
        seq, prev = self._last
        tree, block = self._tree.copy(), self._block.copy()
        versions: dict[StreamId, int] = {}
        written = []
        try:
            with self._env.begin(write=True) as txn:
                for index, pending in enumerate(batch):
                    stream = pending.stream
                    version = versions.get(stream)
                    if version is None:
                        version = self._version(txn, stream)
                    if version != pending.expected_version:
                        raise VersionConflict(index, pending, version)
                    for document in pending.documents:
                        digest = sha256(document).digest()
                        txn.put(digest, document, db=self._db[b"dc"], overwrite=False)
                        if self._fresh is not None:
                            self._fresh.add(digest)
                    for confidential in pending.confidences:
                        vault.put(txn, self._db[vault.NAME], confidential)
                    if pending.erases is not None:
                        vault.erase(txn, self._db[vault.NAME], pending.erases, seq + 1)
                    envelopes, prev = self._put(txn, tree, block, pending, seq, prev, wall_ns, boot_ns)
                    written.append(envelopes)
                    seq += len(envelopes)
                    versions[stream] = version + len(envelopes)
        except (lmdb.MapFullError, VersionConflict):
            raise  # before the commit, or as its first step: the transaction is undone
        except BaseException:
            self._failed = True
            raise
        self._last = (seq, prev)
        self._tree, self._block = tree, block
        if len(self._versions) > VERSIONS_KEPT:
            self._versions.clear()
        self._versions.update(versions)
        self._check_readers()
        return written

    def _put(
        self,
        txn: lmdb.Transaction[bytes],
        tree: merkle.Frontier,
        block: blocks.Summary,
        pending: Pending,
        seq: int,
        prev: bytes,
        wall_ns: int,
        boot_ns: int,
    ) -> tuple[tuple[Envelope, ...], bytes]:
        """Put one request's records after record *seq*, and return its envelopes and the last one's hash."""
        events_db, streams_db = self._db[b"ev"], self._db[b"st"]
        stream, version, context = pending.stream, pending.expected_version, pending.context
        prefix = stream_key(stream)
        moment = (wall_ns, boot_ns, self._boot, self.epoch)
        origin = (context.who, context.correlation, context.cause, context.command_id)
        more = codec.appended(context)
        envelopes = []
        for event, payload in zip(pending.events, pending.payloads, strict=True):
            seq += 1
            version += 1
            kind, kind_version = codec.name_of(event)
            record, prev = codec.seal(
                (seq, stream, version, kind, kind_version, *moment, *origin, prev, *more), payload
            )
            at = U64.pack(seq)
            stored = txn.put(at, record, db=events_db, append=True, overwrite=False)
            assert stored, f"sequence {seq} is taken"
            stored = txn.put(prefix + U64.pack(version), at, db=streams_db, overwrite=False)
            assert stored, f"version {version} of {stream!r} is taken"
            for node in tree.append(prev):
                txn.put(node_key(node.level, node.index), node.hash, db=self._db[b"mt"])
            block.add(kind, context.who, wall_ns)
            if not seq % blocks.BLOCK:
                txn.put(U64.pack(blocks.block_of(seq)), block.encode(), db=self._db[b"bk"])
                block.clear()
            for key, value in indexing.entries(event, stream, seq):
                txn.put(key, value, db=self._db[b"ix"])
            envelopes.append(
                Envelope(
                    seq=seq,
                    stream=stream,
                    version=version,
                    type=kind,
                    type_version=kind_version,
                    wall_ns=wall_ns,
                    boot_ns=boot_ns,
                    boot_id=self.boot_id,
                    epoch=self.epoch,
                    context=context,
                    event=event,
                )
            )
        return tuple(envelopes), prev

    def put_snapshot(self, name: str, schema_hash: bytes, seq: int, state: bytes) -> None:
        """Keep *state*, that of projection *name* as of *seq*, and of the older ones only the newest."""
        assert 0 < seq <= self._last[0], f"snapshot of {name!r} at {seq}, the log ends at {self._last[0]}"
        prefix = name.encode() + b"\0"
        value = msgspec.msgpack.encode((schema_hash, sha256(state).digest(), state))
        for attempt in (1, 2):
            try:
                with self._env.begin(db=self._db[b"sn"], write=True) as txn:
                    txn.put(prefix + U64.pack(seq), value)
                    for key in keys(txn, prefix)[:-SNAPSHOTS_KEPT]:
                        txn.delete(key)
                return
            except lmdb.MapFullError:
                if attempt == 2:
                    raise
                self._grow()

    def watch_documents(self, *, watch: bool) -> None:
        """Remember which documents come from now on, so that ``drop_documents`` leaves them alone; or stop it."""
        self._fresh = set() if watch else None

    def begin_trim(self, through: int) -> None:
        """Say that records up to *through*, the end of a block, may be gone from now on. See ``ocid.journal.trim``."""
        assert through <= self._last[0], f"trimmed up to {through}, the log ends at {self._last[0]}"
        with self._env.begin(write=True) as txn:
            trim.begin(txn, self._db, through)

    def trim_block(self, block: int, kept: Collection[int], limit: int) -> tuple[int, bool]:
        """Take up to *limit* records of *block* out but those at *kept*; return how many, and whether that is all."""
        assert blocks.first_of(block + 1) - 1 <= self.trimmed()[0], f"block {block} is beyond what may be trimmed"
        with self._env.begin(write=True) as txn:
            return trim.trim_block(txn, self._db, block, kept, limit)

    def drop_confidences(self, pods: Collection[PodId]) -> None:
        """Remove the confidential documents of *pods*, of which no record is left."""
        with self._env.begin(write=True) as txn:
            for pod_id in pods:
                vault.drop(txn, self._db[vault.NAME], pod_id)

    def drop_documents(self, digests: Collection[bytes]) -> int:
        """Remove documents that nothing cited when ``watch_documents`` began, and that did not come again since."""
        fresh = self._fresh
        assert fresh is not None, "nobody watched which documents came again"
        with self._env.begin(db=self._db[b"dc"], write=True) as txn:
            return sum(txn.delete(digest) for digest in digests if digest not in fresh)

    def sweep_erased(self, limit: int) -> int:
        """Delete up to *limit* encrypted texts whose pod's key is gone, and return how many that were."""
        with self._env.begin(write=True) as txn:
            return vault.sweep(txn, self._db[vault.NAME], limit)

    def head(self) -> merkle.Frontier:
        """Return the tree over all records, which goes on growing; this one does not."""
        return self._tree.copy()

    def close(self, *, stopped_at_ns: int | None = None) -> None:
        """Close the log; *stopped_at_ns*, wall clock, says that the daemon stops on purpose."""
        if stopped_at_ns is not None and not self._failed:
            with self._env.begin(db=self._db[b"mk"], write=True) as txn:
                txn.put(b"stop", U64.pack(stopped_at_ns))
        super().close()

    # --- inside ---

    def last(self) -> tuple[int, bytes]:
        """Return seq and hash of the last record; (0, what record 1 cites) for an empty log."""
        return self._last

    def _begin_epoch(self, genesis: bytes, epoch_before: int) -> tuple[int, str, int]:
        """Return this life's epoch, the boot id of the last one ("" for none) and when it stopped, or 0.

        Only lives that wrote something are counted, so that one that is missing in the log can be seen.
        """
        with self._env.begin(db=self._db[b"mk"], write=True) as txn:
            if txn.put(b"format", FORMAT, overwrite=False):
                txn.put(b"genesis", genesis)
                txn.put(b"epoch", U64.pack(epoch_before))
                self._last = 0, genesis
            record = txn.get(U64.pack(self._last[0]), db=self._db[b"ev"])
            if record is None:
                epoch = U64.unpack(txn.get(b"epoch", U64.pack(0)))[0] + 1
            else:
                epoch = codec.header_of(record).epoch + 1
            boot = txn.get(b"boot", b"").decode()
            stop = U64.unpack(txn.get(b"stop", U64.pack(0)))[0]
            txn.put(b"boot", self.boot_id.encode())
            txn.put(b"stop", U64.pack(0))
        return epoch, boot, stop

    def _version(self, txn: lmdb.Transaction[bytes], stream: StreamId) -> int:
        """Return the last version of *stream*, 0 for none."""
        if (known := self._versions.get(stream)) is not None:
            return known
        prefix = stream_key(stream)
        with txn.cursor(self._db[b"st"]) as cursor:
            before = cursor.prev() if cursor.set_range(prefix + b"\xff" * 8) else cursor.last()
            key = cursor.key() if before else b""
        return U64.unpack(key[-8:])[0] if key.startswith(prefix) else 0

    def _open_block(self) -> blocks.Summary:
        """Return the summary of the block that is not complete."""
        summary = blocks.Summary()
        for _, record in self.records(self._last[0] - self._last[0] % blocks.BLOCK + 1):
            header = codec.header_of(record)
            summary.add(header.type, header.who, header.wall_ns)
        return summary

    def _grow(self) -> None:
        """Double the map, once every read transaction of this process has ended."""
        with self._gate.alone():
            self._env.set_mapsize(2 * self._env.info()["map_size"])

    def _check_readers(self) -> None:
        """Free the slots of readers that died, now and then."""
        now = time.monotonic()
        if now - self._reader_check_at > READER_CHECK_S:
            self._reader_check_at = now
            self._env.reader_check()
