"""``ocid-replay check-evidence``: whether a package of evidence is whole, and what a log's key signed for.

The file may be anybody's: nothing of it is written to disk, and what is read of it is bounded.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

import msgspec

from ocid import tables
from ocid.domain import merkle, note
from ocid.domain.note import Key
from ocid.errors import EffectFailed, InvalidRequest
from ocid.events import codec
from ocid.events.codec import Damaged
from ocid.journal.signatures import verifies
from ocid.projections.fields import plain

from .exits import CONTRADICTED, DAMAGED, OK, UNSIGNED
from .package import SUMS
from .prove import FORMAT
from .verify import key_of
from .witness import witnessed

LINE_BYTES_MAX: Final = 1 << 20
DOCUMENT_BYTES_MAX: Final = 64 << 20
MEMBERS_MAX: Final = 1_000_000
BYTES_MAX: Final = 64 << 30
FAULTS_MAX: Final = 20
CUSTODY: Final = "custody.json"
_PLAIN: Final = frozenset(
    (
        "README",
        "verify.json",
        "host.json",
        "keys.json",
        "checkpoints.jsonl",
        "events.jsonl",
        "proofs.jsonl",
        SUMS,
        CUSTODY,
    )
)
_encode = msgspec.json.Encoder(order="deterministic").encode


class Broken(Exception):
    """It is no package, or not what was packed."""


class Found(msgspec.Struct):
    """What a package has, and what is wrong with it."""

    records: int = 0
    proven: int = 0  # of them
    documents: int = 0
    origin: str = ""  # the log's name
    key: str = ""  # that signed its checkpoint
    trusted: bool = False  # it was given, or vouched for by the one that was
    witnessed: int = 0  # checkpoints that a witness has, too
    sums: str = ""  # the sha256 of SHA256SUMS
    faults: list[str] = msgspec.field(default_factory=list)  # what contradicts the checkpoints, the key or the witness


def run(args: argparse.Namespace) -> int:
    """Check it and print what was found."""
    key, kept = key_of(args.key), None if args.witness is None else witnessed(args.witness)
    path = Path(args.file)
    try:
        with path.open("rb") as file:
            found = check(file, key, None if kept is None else kept.notes)
    except OSError as error:
        raise EffectFailed(f"{args.file!r} cannot be read: {error.strerror or error}") from error
    except Broken as broken:
        _tell(args, DAMAGED, {"file": args.file, "damaged": str(broken)}, [f"DAMAGED: {args.file}", f"  {broken}"])
        return DAMAGED
    code = exit_code(found)
    _tell(args, code, {"file": args.file, **msgspec.to_builtins(found)}, text(args.file, found))
    return code


def _tell(args: argparse.Namespace, code: int, document: dict[str, Any], lines: list[str]) -> None:
    if args.output == "json":
        tables.json({**document, "exit_code": code})
        return
    for line in lines:
        tables.line(line)


def exit_code(found: Found) -> int:
    """Return what it comes to. Pure."""
    if found.faults:
        return CONTRADICTED
    return OK if found.proven else UNSIGNED


def text(name: str, found: Found) -> list[str]:
    """Return what was found as lines. Pure."""
    word = {OK: "OK", UNSIGNED: "NOT SIGNED"}.get(exit_code(found), "NOT WHAT WAS SIGNED FOR")
    lines = [f"{word}: {name}", *(f"  {fault}" for fault in found.faults)]
    lines.append(
        f"  {found.records} records of {found.origin or 'a log without a name'}, {found.proven} of them proven"
    )
    lines.append(f"  {found.documents} documents have the digests that they are cited by")
    lines.append(f"  signed by {found.key or 'nobody'}")
    if not found.trusted:
        lines.append("  nobody but the package says that this is the log's key: give --key to have it checked")
    if found.witnessed:
        lines.append(f"  a witness has {found.witnessed} of its checkpoints, too")
    else:
        lines.append("  no witness was asked: whoever has the key could have made all of it; give --witness")
    lines.append(f"  sha256 of {SUMS}: {found.sums}")
    return lines


def check(file: IO[bytes], key: Key | None, notes: list[str] | None = None) -> Found:
    """Check a package.

    Args:
        file: the package.
        key: the one that must have signed; None takes the package's own word.
        notes: the checkpoints that a witness kept; None when none was asked.
    Raises:
        Broken: it is none, or not what was packed.
    """
    checking = _Checking(key)
    try:
        with tarfile.open(fileobj=file, mode="r|gz", bufsize=1 << 20, tarinfo=_Member) as tar:
            for member in tar:
                checking.take(member, tar.extractfile(member))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Broken(f"it is no package: {error}") from error
    return checking.finish(notes)


class _Member(tarfile.TarInfo):
    """Refuses all but plain files before anything more of them is read: what extends a header has any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header; see ``tarfile.TarInfo.frombuf``."""
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise Broken(f"{found.name[:100]!r} does not belong in it")
        return found


class _Checking:
    """Takes one file after the other, in the order in which they were packed."""

    def __init__(self, key: Key | None) -> None:
        self.found = Found()
        self._key = key
        self._sums: dict[str, str] = {}
        self._listed: dict[str, str] | None = None
        self._bytes = 0
        self._events: dict[int, bytes] = {}  # seq: the sha256 of what events.jsonl says of the record
        self._trusted: list[Key] = [] if key is None else [key]  # it, and those that it vouches for
        self._head: note.Checkpoint | None = None
        self._written = ""  # the note of that
        self._older: dict[int, bytes] = {}  # size: root, of those that the head goes on from

    def take(self, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Check one file by itself."""
        name = member.name
        kind, _, rest = name.partition("/")
        known = name in _PLAIN or (kind in ("documents", "confidential") and rest.isalnum())
        if content is None or not member.isreg() or not known or name in self._sums:
            raise Broken(f"{name[:100]!r} does not belong in it")
        self._bytes += member.size
        if self._bytes > BYTES_MAX or len(self._sums) >= MEMBERS_MAX:
            raise Broken("it is larger than any that is packed")
        hashed = _Hashed(content)
        if name == "events.jsonl":
            self._take_events(hashed)
        elif name == "proofs.jsonl":
            self._take_proofs(hashed)
        elif name == "keys.json":
            self._take_keys(hashed.all(LINE_BYTES_MAX))
        elif name == "checkpoints.jsonl":
            self._take_checkpoints(hashed)
        elif name == SUMS:
            self._listed = _sums_of(hashed.all(LINE_BYTES_MAX * 64))
        elif kind in ("documents", "confidential"):
            if hashlib.sha256(hashed.all(DOCUMENT_BYTES_MAX)).hexdigest() != rest:
                raise Broken(f"{name!r} has another digest")
            self.found.documents += 1
        hashed.drain()
        self._sums[name] = hashed.hash.hexdigest()

    def finish(self, notes: list[str] | None) -> Found:
        """Compare the files with what is listed, and the checkpoints with what a witness kept."""
        found = self.found
        if self._listed is None:
            raise Broken(f"{SUMS} is missing")
        own = {name: digest for name, digest in self._sums.items() if name not in (SUMS, CUSTODY)}
        for name in sorted(own.keys() | self._listed.keys()):
            if name not in own:
                raise Broken(f"{name!r} is missing")
            if own[name] != self._listed.get(name):
                raise Broken(f"{name!r} is not what {SUMS} says")
        if self._events:
            raise Broken(f"record {min(self._events)} has no line in proofs.jsonl")
        found.sums = self._sums[SUMS]
        if notes is not None:
            self._compare(notes)
        return found

    def _take_events(self, lines: _Hashed) -> None:
        for line in lines.lines():
            document = _json(line)
            document.pop("words", None)
            seq = document.get("seq")
            if not isinstance(seq, int) or seq in self._events:
                raise Broken("events.jsonl has a line of no record")
            self._events[seq] = hashlib.sha256(_encode(document)).digest()
            self.found.records += 1

    def _take_proofs(self, lines: _Hashed) -> None:
        for line in lines.lines():
            proof = _json(line)
            seq = proof.get("seq")
            said = self._events.pop(seq, None) if isinstance(seq, int) else None
            if said is None:
                raise Broken("proofs.jsonl has a line of a record that events.jsonl has not")
            if proof.get("proof") is None:
                continue
            try:
                record = self._prove(proof)
                envelope = codec.decode(record)
            except (KeyError, TypeError, ValueError, binascii.Error, InvalidRequest, Damaged) as error:
                raise Broken(f"the proof of record {seq} is none: {error}") from error
            if envelope.seq != seq or hashlib.sha256(_encode(plain(envelope))).digest() != said:
                self._fault(f"record {seq}: events.jsonl says something else than the record")

    def _prove(self, proof: dict[str, Any]) -> bytes:
        """Follow a proof to the checkpoint, and return the record."""
        if proof["format"] != FORMAT:
            raise ValueError(f"format {proof['format']!r} is not {FORMAT!r}")
        if self._head is None or proof["checkpoint"] != self._written:
            raise ValueError("it leads to another checkpoint than the one in the package")
        record = base64.b64decode(proof["record"], validate=True)
        codec.check(record)
        path = [bytes.fromhex(each) for each in proof["proof"]]
        at = int(proof["seq"]) - 1
        if merkle.inclusion_root(codec.hash_of(record), at, self._head.size, path) == self._head.root:
            self.found.proven += 1
        else:
            self._fault(f"record {at + 1} is not among those that were signed for")
        return record

    def _take_keys(self, content: bytes) -> None:
        """Follow the keys from the given one on: each signs for the next."""
        try:
            before: Key | None = None
            for each in msgspec.json.decode(content):
                entered = note.key_of(each["event"]["key"])
                voucher = None if each["note"] is None else note.parse(each["note"])
                if before is not None and before in self._trusted and _vouches(voucher, before, entered):
                    self._trusted.append(entered)
                before = entered
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError, InvalidRequest) as error:
            raise Broken(f"keys.json is none: {error}") from error
        self.found.key = "" if before is None else before.text()
        self.found.trusted = before is not None and before in self._trusted
        if self._key is not None and not self.found.trusted:
            self._fault(f"the key {self._key.name}+{self._key.id.hex()} did not sign it, nor vouch for one that did")

    def _take_checkpoints(self, lines: _Hashed) -> None:
        """Take the newest one, which comes last, and those before it that it provably goes on from."""
        older: list[tuple[note.Checkpoint, list[bytes]]] = []
        try:
            for line in lines.lines():
                document = _json(line)
                self._written = str(document["note"])
                self._head = note.checkpoint_of(note.parse(self._written).text)
                older.append((self._head, [bytes.fromhex(each) for each in document["consistency"]]))
            if self._head is None:
                raise Broken("checkpoints.jsonl is empty")
            signer = note.key_of(self.found.key)
        except (KeyError, TypeError, ValueError, InvalidRequest) as error:
            raise Broken(f"checkpoints.jsonl has a line of none: {error}") from error
        head = self._head
        self.found.origin = head.origin
        if not note.parse(self._written).signed_by(signer, verifies):
            self._fault(
                f"the checkpoint over {head.size} records is not signed by the key {signer.name}+{signer.id.hex()}"
            )
        for each, path in older:
            if each.origin != head.origin or not merkle.consistent(each.size, head.size, each.root, head.root, path):
                self._fault(f"the checkpoint over {each.size} records is not how that over {head.size} began")
            self._older[each.size] = each.root

    def _compare(self, notes: list[str]) -> None:
        """See that a witness knows this log, and that it saw the same of it where it saw what is here."""
        heads = [note.checkpoint_of(note.parse(each).text) for each in notes]
        seen = {head.size: head.root for head in heads if head.origin == self.found.origin}
        self.found.witnessed = len(seen.keys() & self._older.keys())
        if not self.found.witnessed:
            self._fault("the witness saw none of its checkpoints")
        for size in sorted(seen.keys() & self._older.keys()):
            if seen[size] != self._older[size]:
                self._fault(f"the first {size} records are not those that the witness saw")

    def _fault(self, what: str) -> None:
        if len(self.found.faults) < FAULTS_MAX:
            self.found.faults.append(what)


class _Hashed:
    """Reads a file once, and hashes what it reads."""

    def __init__(self, content: IO[bytes]) -> None:
        self.hash = hashlib.sha256()
        self._content = content

    def lines(self) -> Iterator[bytes]:
        """Yield its lines, none of which is endless."""
        while line := self._content.readline(LINE_BYTES_MAX):
            self.hash.update(line)
            if not line.endswith(b"\n"):
                raise Broken("a line in it is too long, or cut off")
            yield line

    def all(self, limit: int) -> bytes:
        """Return all of it."""
        content = self._content.read(limit + 1)
        self.hash.update(content)
        if len(content) > limit:
            raise Broken("a file in it is larger than any that is packed")
        return content

    def drain(self) -> None:
        """Read the rest."""
        while piece := self._content.read(io.DEFAULT_BUFFER_SIZE * 16):
            self.hash.update(piece)


def _vouches(voucher: note.Note | None, before: Key, entered: Key) -> bool:
    return voucher is not None and voucher.text == f"{entered.text()}\n" and voucher.signed_by(before, verifies)


def _json(line: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Broken(f"a line in it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise Broken("a line in it is no JSON object")
    return document


def _sums_of(content: bytes) -> dict[str, str]:
    listed = {}
    for line in content.decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    return listed
