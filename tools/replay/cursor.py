"""Where an exporter goes on after it ended: a small file that moves only once what came before it is out.

The file is JSON: the log's name, what its first record cites, the next record to export, and the hash of the one before
it. Because each record cites the hash of the record before it, a cursor fits one history only: on another log, on one
that was rewritten, or on one that is shorter than what was exported, it is refused, and nothing is exported from the
start by mistake. It is replaced as a whole (written beside, synced, renamed, its directory synced), and ``FILE.lock``
beside it is held by the one exporter that uses it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec

from ocid.errors import EffectFailed
from ocid.events import codec
from ocid.events.log import LOG, Founded
from ocid.journal.reader import Reader

from .exits import BUSY, CONTRADICTED, NO_CURSOR

CURSOR_BYTES_MAX: Final = 4096
SEQ_MAX: Final = 1 << 62

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]


class Misfit(EffectFailed):
    """A cursor cannot be used; nothing was exported. ``code`` is the exit code."""

    def __init__(self, message: str, code: int = NO_CURSOR) -> None:
        super().__init__(message)
        self.code = code


class Cursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place between two records of one log."""

    format: Literal["ocid-cursor/1"] = "ocid-cursor/1"
    origin: Annotated[str, msgspec.Meta(max_length=512)]  # the log's name; "" where it had none
    genesis: Hex  # what record 1 cites
    next_seq: Annotated[int, msgspec.Meta(ge=1, le=SEQ_MAX)]
    last_hash: Hex  # of the record before it; *genesis* at the beginning


def origin_of(reader: Reader) -> str:
    """Return the log's name; "" where it has none, or no longer has the record that says it."""
    seq = reader.index([(LOG, 1)])[0]
    found = reader.read(seq, 1) if seq else []
    return found[0].event.origin if found and isinstance(found[0].event, Founded) else ""


def place(reader: Reader, cursor: Cursor) -> None:
    """Check that *cursor* is a place in this log.

    Raises:
        Misfit: it is not; the message says what it is instead.
        Damaged: a record is not what was written.
    """
    origin, wanted = origin_of(reader), cursor.next_seq
    if (origin and cursor.origin and origin != cursor.origin) or reader.genesis().hex() != cursor.genesis:
        raise Misfit(
            f"the cursor is of log {cursor.origin or cursor.genesis[:16]!r}, and this is another one, {origin!r}: "
            "take a cursor of its own for each log"
        )
    last, last_hash = reader.last()
    if wanted > last + 1:
        raise Misfit(
            f"the cursor is beyond the log's end: record {wanted - 1} was exported, and the log now ends at {last}. "
            "It was cut short or replaced by an older copy; see 'ocid-replay verify --witness'",
            CONTRADICTED,
        )
    found = reader.records(wanted, 1)
    if found:
        seq, record = found[0]
        codec.check(record)
        if seq != wanted:
            raise trimmed(wanted, max(seq, reader.trimmed()[0] + 1))
        last_hash = codec.header_of(record).prev_hash
    if last_hash.hex() != cursor.last_hash:
        raise Misfit(
            f"the log is not the one that was exported: record {wanted - 1} has another hash now, so history was "
            "rewritten; see 'ocid-replay verify --witness'",
            CONTRADICTED,
        )


def trimmed(wanted: int, first: int) -> Misfit:
    """Return the error for records that left the log before they were exported; *first* is the first after them."""
    return Misfit(
        f"records {wanted} to {first - 1} left the log before they were exported: export them from the archives, and "
        f"then this log with --from-seq {first} and another cursor"
    )


class CursorFile:
    """One cursor's file, held for as long as this object is open."""

    def __init__(self, path: Path) -> None:
        """Take hold of the cursor.

        Raises:
            Misfit: another exporter has it.
            EffectFailed: its directory cannot be written.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._lock = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
        except OSError as error:
            raise EffectFailed(f"the cursor's lock {f'{path}.lock'!r} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Misfit(f"the cursor {str(path)!r} is in use: another exporter runs with it", BUSY) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._lock)

    def load(self) -> Cursor | None:
        """Return the cursor; None where there is none yet.

        Raises:
            Misfit: the file holds something else.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Misfit(f"the cursor {str(self.path)!r} cannot be read: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Misfit(f"the cursor {str(self.path)!r} is no file")
            content = os.read(descriptor, CURSOR_BYTES_MAX + 1)
        except OSError as error:
            raise Misfit(f"the cursor {str(self.path)!r} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        if len(content) > CURSOR_BYTES_MAX:
            raise Misfit(f"{str(self.path)!r} is no cursor: it has more than {CURSOR_BYTES_MAX} bytes")
        try:
            return msgspec.json.decode(content, type=Cursor)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Misfit(
                f"{str(self.path)!r} is no cursor ({error}): nothing is exported from the start by mistake; remove it "
                "if that is what is wanted"
            ) from error

    def store(self, cursor: Cursor) -> None:
        """Replace the cursor, durably.

        Raises:
            EffectFailed: it cannot be written; the one before is still there.
        """
        beside = self.path.with_name(f".{self.path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(beside, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(cursor) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise EffectFailed(f"the cursor {str(self.path)!r} cannot be written: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
