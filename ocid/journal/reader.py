"""Reading a log on disk, from the daemon or from a process beside it. See ``ocid.journal.store`` for what is where.

Every read transaction is short and seeks its place again by seq: an old reader keeps freed pages from being used.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import lmdb
import msgspec

from ocid.domain import merkle
from ocid.errors import NotFound, Unavailable, Unsupported
from ocid.events import codec
from ocid.events.codec import NO_HASH, Damaged
from ocid.events.envelope import Envelope
from ocid.ids import Digest, StreamId
from ocid.journal.confiding import Confiding
from ocid.journal.pending import Snapshot

FORMAT: Final = b"1"
MAP_BYTES: Final = 16 << 30  # address space, not disk
MAP_BYTES_MIN: Final = 64 << 20
READERS_MAX: Final = 512
READ_RECORDS_MAX: Final = 4096  # in one transaction
READ_S_MAX: Final = 0.2  # in one transaction

U64: Final = struct.Struct(">Q")
MINUTE_NS: Final = 60 * 10**9
DATABASES: Final = (b"ev", b"st", b"ti", b"dc", b"se", b"mt", b"sn", b"mk")
_decode_snapshot = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode


class Reader(Confiding):
    """One log, open for reading; works while a daemon writes it. Any thread may read."""

    def __init__(self, directory: Path, *, map_bytes: int = MAP_BYTES, readonly: bool = True) -> None:
        """Open the log in *directory*. Reading needs write access to ``lock.mdb`` there.

        A damaged file can kill the process that opens it: see ``ocid.journal.opening.examine`` for strangers' logs.

        Args:
            directory: where the log is.
            map_bytes: address space to reserve; less is taken where that much is not to be had.
            readonly: False only for ``Store``, which makes what is missing.
        Raises:
            NotFound: there is no log.
            Unsupported: it was written in a format that this build does not read.
            Unavailable: all slots for readers are taken.
        """
        self.directory = directory
        self.readonly = readonly
        self._gate = Gate()
        self._env = open_environment(directory, readonly, map_bytes)
        try:
            self._env.reader_check()
            self._db = {name: self._open_db(name) for name in DATABASES}
            with self._reading() as txn:
                stored = txn.get(b"format", db=self._db[b"mk"])
                if stored not in ({FORMAT} if readonly else {FORMAT, None}):
                    raise Unsupported(
                        f"the log in {str(directory)!r} has format {stored!r}; this build reads {FORMAT!r}: "
                        "run the ocid that wrote it, or a newer one"
                    )
        except BaseException:
            self._env.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log."""
        self._env.close()

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

    def index(self, places: list[tuple[StreamId, int]]) -> list[int | None]:
        """Return where in the log these versions of these streams are, as the index of streams has it."""
        with self._reading() as txn:
            database = self._db[b"st"]
            found = [txn.get(stream_key(stream) + U64.pack(version), db=database) for stream, version in places]
        return [None if at is None else U64.unpack(at)[0] for at in found]

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
        if len(found) < count:
            missing = (first + len(found) << kept) + 1
            raise Damaged("the tree lacks it" if kept else "the record is missing", missing)
        return merkle.root_of(found)

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
        key = bytes.fromhex(digest.removeprefix("sha256:"))
        with self._reading() as txn:
            stored = txn.get(key, db=self._db[b"dc"])
        if stored is None:
            return self.confidential(digest).text
        if sha256(stored).digest() != key:
            raise Damaged(f"the stored document {digest} has another digest")
        return stored

    def seq_at(self, wall_ns: int) -> int:
        """Return a seq before which no event was written at *wall_ns* or later, to within a minute.

        Holds when the wall clock was set back, too. One past the end when nothing is that late.
        """
        with self._reading() as txn, txn.cursor(self._db[b"ti"]) as cursor:
            if not cursor.set_range(U64.pack(wall_ns // MINUTE_NS)):
                return self.last_seq() + 1
            return min(int(U64.unpack(value)[0]) for value in cursor.iternext(keys=False))

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

    def meta(self, name: str) -> bytes | None:
        """Return a fact about the log itself: "format", "epoch", "boot", "genesis" or "stop"; None when it has none."""
        with self._reading() as txn:
            return txn.get(name.encode(), db=self._db[b"mk"])

    # --- inside ---

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        with self._gate.reading():
            try:
                txn = self._env.begin()
            except lmdb.MapResizedError:  # the daemon's map has grown; only a reader beside it can meet this
                self._env.set_mapsize(0)
                txn = self._env.begin()
            except lmdb.ReadersFullError as error:
                where = str(self.directory)
                raise Unavailable(f"the log in {where!r} has {READERS_MAX} readers already: end some") from error
            with txn:
                yield txn

    def _open_db(self, name: bytes) -> Any:
        try:
            return self._env.open_db(name, create=not self.readonly)
        except (lmdb.NotFoundError, lmdb.ReadonlyError) as error:
            raise NotFound("log", str(self.directory)) from error


class Gate:
    """Lets readers of this process pass together, and the one that resizes the map alone."""

    def __init__(self) -> None:
        self._readers = 0
        self._changed = threading.Condition()

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._changed:
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            while self._readers:
                self._changed.wait()
            yield


def open_environment(directory: Path, readonly: bool, map_bytes: int) -> lmdb.Environment:
    """Open the environment in the 0.9 format, with as much of *map_bytes* as the address space allows."""
    options: dict[str, Any] = {"max_dbs": 16, "max_readers": READERS_MAX, "mode": 0o600, "readahead": False}
    if _has_engines():
        options["lib_version"] = 0
    while True:
        try:
            return lmdb.open(str(directory), map_size=map_bytes, readonly=readonly, create=not readonly, **options)
        except lmdb.MemoryError:
            if map_bytes <= MAP_BYTES_MIN:
                raise
            map_bytes //= 2
        except lmdb.Error as error:
            if readonly and not (directory / "data.mdb").exists():
                raise NotFound("log", str(directory)) from error
            raise


def _has_engines() -> bool:
    """Say whether this lmdb carries the 1.0 engine too, whose files no distribution's tools can read."""
    try:
        lmdb.version(lib_version=0)
    except TypeError:
        return False
    return True


def _seq_of(key: bytes) -> int:
    return int.from_bytes(key, "big")


def node_key(level: int, index: int) -> bytes:
    return bytes([level]) + U64.pack(index)


def stream_key(stream: StreamId) -> bytes:
    return stream.encode() + b"\0"


def _decode(seq: int, record: bytes) -> Envelope:
    try:
        envelope = codec.decode(record)
    except Damaged as damage:
        raise Damaged(damage.what, seq) from damage
    if envelope.seq != seq:
        raise Damaged(f"the record says that it is {envelope.seq}", seq)
    return envelope


def keys(txn: lmdb.Transaction[bytes], prefix: bytes, db: Any = None) -> list[bytes]:
    with txn.cursor(db) as cursor:
        found = []
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            found.append(cursor.key())
            more = cursor.next()
    return found
