"""Archives of a log's records: written before they are trimmed, and unpacked to be read, checked and proven as a log.

A file is zstd over frames, each a length (4 bytes, big-endian) and a msgpack array::

    ["ocid-archive-1", first, last]        what records it is for
    ["n", index, hash]                     each block of 256 records before these: its node of the tree
    ["l", index, hashes]                   the leaf hashes of blocks that records below are of
    ["r", record]                          records about the log itself from before these: its name, whose keys sign
    ["r", record]                          the records first to last, and what follows up to the checkpoint over them
    ["d", document]                        what these cite
    ["e", frames, sha256]                  of all frames before this one

Nothing confidential is in it: an archive could not be erased. What is unpacked is checked like any log; the indexes are
made anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import lmdb
import msgspec
import zstandard

from ocid.domain.merkle import HASH_BYTES, KEPT_LEVELS, Frontier
from ocid.errors import NotFound, Unsupported
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.events.log import LOG, Sealed
from ocid.ids import Digest
from ocid.journal import indexing
from ocid.journal.blocks import BLOCK, Summary, block_of, first_of
from ocid.journal.environment import DATABASES, FORMAT, MAP_BYTES, U64, node_key, stream_key
from ocid.journal.pending import DOCUMENT_BYTES_MAX
from ocid.journal.reader import Reader

FORMAT_NAME: Final = "ocid-archive-1"
SUFFIX: Final = ".ocid-archive"
LEVEL: Final = 9  # of zstd: 3 is a tenth larger on logs, 19 takes ten times as long
MAGIC: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878 section 3.1.1
FRAME_BYTES_MAX: Final = DOCUMENT_BYTES_MAX + 64
UNPACKED_BYTES_MAX: Final = 64 << 30
WINDOW_BYTES_MAX: Final = 128 << 20
_LENGTH: Final = struct.Struct(">I")
_BATCH: Final = 5000  # frames in one transaction
_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Written(msgspec.Struct, frozen=True):
    """An archive that was written."""

    first: int
    last: int
    records: int
    documents: int
    bytes: int  # of the file
    digest: Digest  # of the file


def write(reader: Reader, first: int, last: int, path: Path) -> Written:
    """Write the records *first* to *last*, both ends of blocks, to *path*, durably, and with mode 0600.

    Raises:
        Damaged: a record is not what was written, or is missing.
        OSError: it cannot be written. What was begun is gone then.
    """
    assert first % BLOCK == 1 and not last % BLOCK, f"{first} to {last} are no whole blocks"  # noqa: PT018
    beginning = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(beginning, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            writer = _Writer(file)
            records, documents = _write(reader, writer, first, last)
            writer.end()
            os.fsync(file.fileno())
        digest, size = _measured(beginning)
        os.replace(beginning, path)
    except BaseException:
        beginning.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return Written(first, last, records, documents, size, digest)


def _write(reader: Reader, writer: _Writer, first: int, last: int) -> tuple[int, int]:
    writer.put([FORMAT_NAME, first, last])
    own = [each for each in reader.read_stream(LOG) if each.seq < first and not isinstance(each.event, Sealed)]
    for block in range(block_of(first)):
        writer.put(["n", block, reader.subtree(KEPT_LEVELS, block)])
    for block in sorted({block_of(each.seq) for each in own}):
        leaves = reader.leaves(block) or [reader.subtree(0, seq - 1) for seq in _seqs(block)]
        writer.put(["l", block, b"".join(leaves)])
    cited: set[bytes] = set()
    count = 0
    for seqs in ([each.seq for each in own], range(first, _end(reader, last) + 1)):
        for seq in seqs:
            ((found, record),) = reader.records(seq, 1) or [(0, b"")]
            if found != seq:
                raise Damaged("the record is missing", seq)
            codec.check(record)
            writer.put(["r", record])
            cited.update(_DIGEST.findall(record))
            count += 1
    return count, _write_documents(reader, writer, cited)


def _write_documents(reader: Reader, writer: _Writer, cited: set[bytes]) -> int:
    """Write what is cited, and what that cites in turn."""
    done: set[bytes] = set()
    count = 0
    while wanted := sorted(cited - done):
        for digest in wanted:
            done.add(digest)
            try:
                document = reader.plain_document(Digest(f"sha256:{digest.decode()}"))
            except NotFound:
                continue  # a blob, a digest of an image, or confidential
            writer.put(["d", document])
            cited.update(_DIGEST.findall(document))
            count += 1
    return count


def _end(reader: Reader, last: int) -> int:
    """Return the record with the first checkpoint that covers *last*, or *last* when there is none."""
    for envelope in reader.read_stream(LOG):
        if isinstance(envelope.event, Sealed) and envelope.event.size >= last:
            return max(envelope.seq, last)
    return last


class _Writer:
    """Writes frames."""

    def __init__(self, file: IO[bytes]) -> None:
        self._out = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(file, closefd=False)
        self._hash = hashlib.sha256()
        self._frames = 0

    def put(self, frame: list[Any]) -> None:
        raw = _encode(frame)
        self._hash.update(raw)
        self._frames += 1
        self._out.write(_LENGTH.pack(len(raw)) + raw)

    def end(self) -> None:
        self.put(["e", self._frames, self._hash.digest()])
        self._out.flush(zstandard.FLUSH_FRAME)
        self._out.close()  # type: ignore[no-untyped-call]


def is_archive(path: Path) -> bool:
    """Say whether *path* is a file that begins as archives do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def unpack(path: Path, directory: Path) -> None:
    """Make a log in the empty *directory* of what *path* holds. The archive may be anybody's.

    Raises:
        Damaged: it is no archive, or not what was written.
        Unsupported: a newer ocid wrote it.
        OSError: it cannot be read, or the log cannot be written.
    """
    options: dict[str, Any] = {"max_dbs": 16, "mode": 0o600, "sync": False, "metasync": False, "readahead": False}
    if _has_engines():
        options["lib_version"] = 0
    environment = lmdb.open(str(directory), map_size=MAP_BYTES, **options)
    try:
        databases = {name: environment.open_db(name) for name in DATABASES}
        taking = _Taking(environment, databases)
        for frame in _frames(path):
            taking.take(frame)
        taking.finish()
    finally:
        environment.close()


class _Taking:
    """Takes frames into a log, in the order of the format."""

    def __init__(self, environment: lmdb.Environment, databases: dict[bytes, Any]) -> None:
        self._environment = environment
        self._db = databases
        self._puts: list[tuple[bytes, bytes, bytes]] = []  # database, key, value
        self._tree = Frontier()
        self._summaries: dict[int, Summary] = {}
        self._first = self._last = 0
        self._next = 0  # the record that must come next, once those of the range do
        self._prev = b""
        self._epoch = 0
        self._leaves: dict[int, bytes] = {}
        self._done = False

    def take(self, frame: Any) -> None:
        """Take one frame."""
        match frame:
            case [str(name), int(first), int(last)] if not self._first:
                self._begin(name, first, last)
            case _ if not self._first or self._done:
                raise Damaged("the archive has frames in the wrong order")
            case ["n", int(index), bytes(node)] if not self._next and len(node) == HASH_BYTES:
                self._node(index, node)
            case ["l", int(index), bytes(leaves)] if not self._next and len(leaves) == BLOCK * HASH_BYTES:
                self._put(b"lf", U64.pack(index), leaves)
                self._leaves[index] = leaves
            case ["r", bytes(record)]:
                self._record(record)
            case ["d", bytes(document)]:
                self._put(b"dc", hashlib.sha256(document).digest(), document)
            case ["e", int(), bytes()]:
                self._done = True
            case _:
                raise Damaged("the archive has a frame that is none of this format")

    def finish(self) -> None:
        """Write what is left, and what the log is."""
        if not self._done or self._next <= self._last:
            raise Damaged("the archive ends before its end")
        for block, leaves in self._leaves.items():
            if block not in self._summaries:
                raise Damaged(f"the archive has the hashes of block {block} and no record of it: {len(leaves)} bytes")
        complete = block_of(self._next)  # the first block that is not
        for block, summary in self._summaries.items():
            if block < complete:
                self._put(b"bk", U64.pack(block), summary.encode())
        for name, value in ((b"format", FORMAT), (b"archive", b"1"), (b"epoch", U64.pack(self._epoch))):
            self._put(b"mk", name, value)
        self._flush()

    def _begin(self, name: str, first: int, last: int) -> None:
        if name != FORMAT_NAME:
            raise Unsupported(f"the archive has format {name[:40]!r}; this build reads {FORMAT_NAME!r}")
        if not 0 < first <= last < 1 << 62 or first % BLOCK != 1 or last % BLOCK:
            raise Damaged(f"the archive says that it has records {first} to {last}, which are no whole blocks")
        self._first, self._last = first, last

    def _node(self, index: int, node: bytes) -> None:
        if index != self._tree.size >> KEPT_LEVELS or index >= block_of(self._first):
            raise Damaged("the archive has nodes of the tree in the wrong order")
        for each in self._tree.append_subtree(node):
            self._put(b"mt", node_key(each.level, each.index), each.hash)

    def _record(self, record: bytes) -> None:
        codec.check(record)
        envelope = codec.decode(record)
        seq, prev = envelope.seq, codec.header_of(record).prev_hash
        if not self._next and seq < self._first:
            if block_of(seq) not in self._leaves or envelope.stream != LOG:
                raise Damaged("the archive has a record that it should not have", seq)
        else:
            self._in_range(seq, prev, record)
        self._epoch = max(self._epoch, envelope.epoch)
        self._summaries.setdefault(block_of(seq), Summary()).add(envelope.type, envelope.context.who, envelope.wall_ns)
        self._put(b"ev", U64.pack(seq), record)
        self._put(b"st", stream_key(envelope.stream) + U64.pack(envelope.version), U64.pack(seq))
        for key, value in indexing.entries(envelope.event, envelope.stream, seq):
            self._put(b"ix", key, value)

    def _in_range(self, seq: int, prev: bytes, record: bytes) -> None:
        if not self._next:
            self._next = self._first
            if self._tree.size != self._first - 1:
                raise Damaged("the archive lacks nodes of the tree")
            if self._first > 1:
                self._put(b"mk", b"trimmed", U64.pack(self._first - 1) + prev)
            else:
                self._put(b"mk", b"genesis", prev)
        if seq != self._next:
            raise Damaged("the archive lacks a record", self._next)
        self._next += 1
        for each in self._tree.append(codec.hash_of(record)):
            self._put(b"mt", node_key(each.level, each.index), each.hash)

    def _put(self, database: bytes, key: bytes, value: bytes) -> None:
        self._puts.append((database, key, value))
        if len(self._puts) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        with self._environment.begin(write=True) as txn:
            for database, key, value in self._puts:
                txn.put(key, value, db=self._db[database])
        self._puts.clear()


def _frames(path: Path) -> Iterator[Any]:
    """Yield the frames of an archive; the last one only when it fits those before it."""
    digest, count, total = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        source = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).stream_reader(file)
        try:
            while head := _exactly(source, _LENGTH.size):
                length = _LENGTH.unpack(head)[0]
                total += length
                if length > FRAME_BYTES_MAX or total > UNPACKED_BYTES_MAX:
                    raise Damaged("the archive is larger than any that ocid writes")
                raw = _exactly(source, length)
                frame = _decode(raw)
                if isinstance(frame, list) and frame[:1] == ["e"] and frame[1:] != [count, digest.digest()]:
                    raise Damaged("the archive is not what was written")
                digest.update(raw)
                count += 1
                yield frame
        except zstandard.ZstdError as error:
            raise Damaged(f"the archive cannot be unpacked: {error}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Damaged(f"the archive has a frame that does not decode: {error}") from error


def _exactly(source: Any, count: int) -> bytes:
    """Read *count* bytes; b"" at the very end."""
    parts, left = [], count
    while left and (part := source.read(left)):
        parts.append(part)
        left -= len(part)
    if left and left != count:
        raise Damaged("the archive ends in the midst of a frame")
    if left and count != _LENGTH.size:
        raise Damaged("the archive ends in the midst of a frame")
    return b"".join(parts)


def _measured(path: Path) -> tuple[Digest, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(f"sha256:{digest}"), file.tell()


def _seqs(block: int) -> range:
    return range(first_of(block), first_of(block) + BLOCK)


def _has_engines() -> bool:
    try:
        lmdb.version(lib_version=0)
    except TypeError:
        return False
    return True
