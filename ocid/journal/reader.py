"""Reading a log on disk, from the daemon or from a process beside it. See ``ocid.journal.store`` for what is where.

Every read transaction is short and seeks its place again by seq: an old reader keeps freed pages from being used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from typing import Final

import msgspec

from ocid.domain import merkle
from ocid.errors import NotFound
from ocid.events import codec
from ocid.events.codec import NO_HASH, Damaged
from ocid.events.envelope import Envelope
from ocid.ids import Digest, StreamId
from ocid.journal import blocks
from ocid.journal.blocks import BLOCK, block_of
from ocid.journal.confiding import Confiding
from ocid.journal.environment import U64, keys, node_key, place_key, stream_key
from ocid.journal.indexes import Indexes
from ocid.journal.pending import Snapshot

READ_RECORDS_MAX: Final = 4096  # in one transaction
READ_S_MAX: Final = 0.2  # in one transaction

_decode_snapshot = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode


class Reader(Indexes, Confiding):
    """One log, open for reading; works while a daemon writes it. Any thread may read."""

    def last(self) -> tuple[int, bytes]:
        """Return seq and hash of the last record; (0, what record 1 cites) for an empty log.

        Raises:
            Damaged: the record is not what was written.
        """
        with self._reading() as txn, txn.cursor(self._db[b"ev"]) as cursor:
            if not cursor.last():
                return 0, txn.get(b"genesis", NO_HASH, db=self._db[b"mk"])
            record = cursor.value()
            seq = U64.unpack(cursor.key())[0]
        codec.check(record)
        return seq, codec.hash_of(record)

    def last_seq(self) -> int:
        """Return the seq of the last record, 0 for an empty log; unlike ``last`` it does not look at the record."""
        with self._reading() as txn, txn.cursor(self._db[b"ev"]) as cursor:
            return U64.unpack(cursor.key())[0] if cursor.last() else 0

    def index(self, places: Sequence[tuple[StreamId, int]]) -> list[int | None]:
        """Return where in the log these versions of these streams are, as the index of streams has it."""
        found = self.values(b"st", [place_key(stream, version) for stream, version in places])
        return [None if at is None else _seq_of(at) for at in found]

    def version_before(self, stream: StreamId, version: int, seq: int) -> tuple[int, int]:
        """Return the last version of *stream* before *version* that stands before record *seq*, and where; or (0, 0).

        As the index of streams has it.
        """
        prefix = stream_key(stream)
        with self._reading() as txn, txn.cursor(self._db[b"st"]) as cursor:
            there = cursor.prev() if cursor.set_range(prefix + U64.pack(version)) else cursor.last()
            while there and cursor.key().startswith(prefix) and len(cursor.key()) == len(prefix) + U64.size:
                if (found := _seq_of(cursor.value())) < seq:
                    return _seq_of(cursor.key()[-8:]), found
                there = cursor.prev()
        return 0, 0

    def index_entries(self) -> int:
        """Return how many entries the index of streams has; one per record."""
        with self._reading() as txn:
            return txn.stat(self._db[b"st"])["entries"]

    def check_documents(self) -> int:
        """Recompute the digest of every document, confidential ones included, and return how many there are.

        Raises:
            Damaged: one has another digest.
        """
        count = 0
        after: bytes | None = b""
        while after is not None:
            until = time.monotonic() + READ_S_MAX
            with self._reading() as txn, txn.cursor(self._db[b"dc"]) as cursor:
                more = cursor.set_range(after) if after else cursor.first()
                while more and time.monotonic() < until:
                    if sha256(cursor.value()).digest() != cursor.key():
                        raise Damaged(f"the stored document sha256:{cursor.key().hex()} has another digest")
                    count += 1
                    more = cursor.next()
                after = cursor.key() if more else None
        return count + self.check_confidences(READ_S_MAX)

    def genesis(self) -> bytes:
        """Return what record 1 cites: 32 zero bytes, or the last good hash of the log quarantined before this one."""
        with self._reading() as txn:
            return txn.get(b"genesis", NO_HASH, db=self._db[b"mk"])

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree. See ``ocid.domain.merkle.Subtree``.

        Raises:
            Damaged: a record or a node that it is made from is missing.
        """
        kept = level - level % merkle.KEPT_LEVELS
        first, count = index << level - kept, 1 << level - kept
        found: list[bytes] = []
        with self._reading() as txn, txn.cursor(self._db[b"mt" if kept else b"ev"]) as cursor:
            start = node_key(kept, first) if kept else U64.pack(first + 1)
            if cursor.set_range(start):
                for key, value in islice(cursor.iternext(), count):
                    if key != (node_key(kept, first + len(found)) if kept else U64.pack(first + len(found) + 1)):
                        break
                    found.append(value[-merkle.HASH_BYTES :])
        if len(found) < count and not kept and (leaves := self.leaves(block_of(first + 1))) is not None:
            begin = first % BLOCK
            found = leaves[begin : begin + count]
        if len(found) < count:
            missing = (first + len(found) << kept) + 1
            what = (
                "the record was trimmed: an archive has it" if missing <= self.trimmed()[0] else "the record is missing"
            )
            raise Damaged("the tree lacks it" if kept else what, missing)
        return merkle.root_of(found)

    def leaves(self, block: int) -> list[bytes] | None:
        """Return the leaf hashes of a block of which only some records are left; None for any other one.

        Raises:
            Damaged: they are not as many as a block has.
        """
        with self._reading() as txn:
            stored = txn.get(U64.pack(block), db=self._db[b"lf"])
        if stored is None:
            return None
        if len(stored) != BLOCK * merkle.HASH_BYTES:
            raise Damaged(f"the hashes of block {block} are {len(stored)} bytes", blocks.first_of(block))
        return [stored[at : at + merkle.HASH_BYTES] for at in range(0, len(stored), merkle.HASH_BYTES)]

    def thinned(self) -> list[int]:
        """Return the blocks of which only some records are left."""
        with self._reading() as txn, txn.cursor(self._db[b"lf"]) as cursor:
            return [U64.unpack(key)[0] for key in cursor.iternext(values=False)]

    def trimmed(self) -> tuple[int, bytes]:
        """Return up to which record the log was trimmed, and that record's hash; (0, b"") for never.

        Of the records up to there only some are left; from the next one on all are.
        """
        stored = self.meta("trimmed")
        if stored is None:
            return 0, b""
        if len(stored) != U64.size + merkle.HASH_BYTES:
            raise Damaged(f"the place up to which the log is trimmed is {len(stored)} bytes")
        return U64.unpack_from(stored)[0], stored[U64.size :]

    def kept(self, level: int, index: int) -> bytes | None:
        """Return the kept hash of a complete subtree; None when it is not there."""
        with self._reading() as txn:
            return txn.get(node_key(level, index), db=self._db[b"mt"])

    def root(self, size: int) -> bytes:
        """Return the root of the tree over the first *size* records, from what the log says that their hashes are.

        Raises:
            Damaged: a record or a node that it is made from is missing.
        """
        return merkle.frontier_at(size, self.subtree).root()

    def records(self, from_seq: int, limit: int = READ_RECORDS_MAX) -> list[tuple[int, bytes]]:
        """Return stored records from *from_seq* on, undecoded, as many as one short transaction gives.

        At least one when there is one; call again with the next seq for more.
        """
        found: list[tuple[bytes, bytes]] = []
        until = time.monotonic() + READ_S_MAX
        with self._reading() as txn, txn.cursor(self._db[b"ev"]) as cursor:
            if not cursor.set_range(U64.pack(max(from_seq, 1))):
                return []
            rows = cursor.iternext()
            wanted = min(limit, READ_RECORDS_MAX)
            while len(found) < wanted and (some := list(islice(rows, min(64, wanted - len(found))))):
                found += some
                if time.monotonic() > until:
                    break
        return [(_seq_of(key), record) for key, record in found]

    def at(self, seqs: Sequence[int]) -> list[Envelope]:
        """Return the records that stand at *seqs*, which are a few thousand at most; one that is missing is left out.

        Raises:
            Damaged: a record is not what was written.
        """
        with self._reading() as txn:
            found = [(seq, txn.get(U64.pack(seq), db=self._db[b"ev"])) for seq in seqs]
        return [_decode(seq, record) for seq, record in found if record is not None]

    def read(self, from_seq: int, limit: int = READ_RECORDS_MAX) -> list[Envelope]:
        """Return envelopes from *from_seq* on, as many as one short transaction gives; none means the end.

        Raises:
            Damaged: a record is not what was written.
        """
        return [_decode(seq, record) for seq, record in self.records(from_seq, limit)]

    def read_stream(self, stream: StreamId, after_version: int = 0) -> list[Envelope]:
        """Return the events of *stream* after *after_version*, all of them.

        Raises:
            Damaged: a record is not what was written, or is missing.
        """
        prefix = stream_key(stream)
        envelopes: list[Envelope] = []
        while True:
            found: list[tuple[int, bytes]] = []
            until = time.monotonic() + READ_S_MAX
            with self._reading() as txn, txn.cursor(self._db[b"st"]) as cursor:
                more = cursor.set_range(prefix + U64.pack(after_version + 1))
                while more and cursor.key().startswith(prefix):
                    at = cursor.value()
                    found.append((U64.unpack(at)[0], txn.get(at, b"", db=self._db[b"ev"])))
                    if len(found) >= READ_RECORDS_MAX or (not len(found) & 63 and time.monotonic() > until):
                        break
                    more = cursor.next()
            if not found:
                return envelopes
            envelopes.extend(_decode(seq, record) for seq, record in found)
            after_version = envelopes[-1].version

    def document(self, digest: Digest) -> bytes:
        """Return a stored document: one by its digest, or a pod's confidential one by its commitment.

        Raises:
            NotFound: no event ever brought it.
            Erased: it was confidential, and was erased.
            Damaged: the stored bytes do not have this digest.
        """
        try:
            return self.plain_document(digest)
        except NotFound:
            return self.confidential(digest).text

    def document_digests(self) -> list[bytes]:
        """Return the sha256 of every document that is not confidential."""
        with self._reading() as txn, txn.cursor(self._db[b"dc"]) as cursor:
            return list(cursor.iternext(values=False))

    def plain_document(self, digest: Digest) -> bytes:
        """Return a stored document that is not confidential.

        Raises:
            NotFound: no event ever brought it.
            Damaged: the stored bytes do not have this digest.
        """
        key = bytes.fromhex(digest.removeprefix("sha256:"))
        with self._reading() as txn:
            stored = txn.get(key, db=self._db[b"dc"])
        if stored is None:
            raise NotFound("document", digest)
        if sha256(stored).digest() != key:
            raise Damaged(f"the stored document {digest} has another digest")
        return stored

    def snapshot(self, name: str, schema_hash: bytes) -> Snapshot | None:
        """Return the newest snapshot of projection *name* made with this schema; a damaged one does not count."""
        prefix = name.encode() + b"\0"
        with self._reading() as txn:
            stored = [(key, txn.get(key, b"", db=self._db[b"sn"])) for key in keys(txn, prefix, self._db[b"sn"])]
        for key, value in reversed(stored):
            try:
                schema, digest, state = _decode_snapshot(value)
            except msgspec.MsgspecError:
                continue
            seq = U64.unpack(key[len(prefix) :])[0]
            if schema == schema_hash and sha256(state).digest() == digest and seq <= self.last_seq():
                return Snapshot(seq, state)
        return None


def _seq_of(key: bytes) -> int:
    return int.from_bytes(key, "big")


def _decode(seq: int, record: bytes) -> Envelope:
    try:
        envelope = codec.decode(record)
    except Damaged as damage:
        raise Damaged(damage.what, seq) from damage
    if envelope.seq != seq:
        raise Damaged(f"the record says that it is {envelope.seq}", seq)
    return envelope
