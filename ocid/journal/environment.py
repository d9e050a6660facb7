"""The LMDB environment beneath a log: opening it, reading it beside a map that may grow, and how keys are made."""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import lmdb

from ocid.errors import NotFound, Unavailable, Unsupported
from ocid.ids import StreamId

FORMAT: Final = b"1"
MAP_BYTES: Final = 16 << 30  # address space, not disk
MAP_BYTES_MIN: Final = 64 << 20
READERS_MAX: Final = 512
NAME_BYTES_MAX: Final = 400  # of an indexed name; LMDB keys hold 511 bytes

KEYS_KEPT: Final = 1024  # children of one parent, and containers of one image, come one after the other

U64: Final = struct.Struct(">Q")
DATABASES: Final = (b"ev", b"st", b"ix", b"bk", b"dc", b"se", b"mt", b"lf", b"sn", b"mk")


class Pages:
    """One log's environment, open; what reads and writes it is derived from this. Any thread may read."""

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

    def meta(self, name: str) -> bytes | None:
        """Return a fact about the log itself: "format", "epoch", "boot", "genesis", "stop" or "trimmed"."""
        with self._reading() as txn:
            return txn.get(name.encode(), db=self._db[b"mk"])

    def commits(self) -> int:
        """Return the number of the last commit."""
        return int(self._env.info()["last_txnid"])

    def values(self, database: bytes, wanted: list[bytes]) -> list[bytes | None]:
        """Return what a database has under each key, None where it has nothing; quickest where it has all."""
        with self._reading() as txn, txn.cursor(self._db[database]) as cursor:
            found = cursor.getmulti(wanted)
        if len(found) == len(wanted):
            return [value for _, value in found]
        there = dict(found)
        return [there.get(key) for key in wanted]

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


def node_key(level: int, index: int) -> bytes:
    return bytes([level]) + U64.pack(index)


def stream_key(stream: StreamId) -> bytes:
    return stream.encode() + b"\0"


def place_key(stream: StreamId, version: int) -> bytes:
    return f"{stream}\0".encode() + U64.pack(version)


@functools.lru_cache(maxsize=KEYS_KEPT)
def child_key(parent: StreamId) -> bytes:
    return b"c" + _bounded(parent) + b"\0"


@functools.lru_cache(maxsize=KEYS_KEPT)
def name_key(name: str) -> bytes:
    return b"n" + _bounded(name) + b"\0"


def _bounded(name: str) -> bytes:
    """Return a name as a part of a key: without zero bytes, and not too long."""
    raw = name.encode("utf-8", "surrogatepass").replace(b"\0", b"\xff")
    if len(raw) > NAME_BYTES_MAX:
        raw = raw[: NAME_BYTES_MAX - 32] + sha256(raw).digest().replace(b"\0", b"\xff")
    return raw


def keys(txn: lmdb.Transaction[bytes], prefix: bytes, db: Any = None) -> list[bytes]:
    with txn.cursor(db) as cursor:
        found = []
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            found.append(cursor.key())
            more = cursor.next()
    return found


def _has_engines() -> bool:
    """Say whether this lmdb carries the 1.0 engine too, whose files no distribution's tools can read."""
    try:
        lmdb.version(lib_version=0)
    except TypeError:
        return False
    return True
