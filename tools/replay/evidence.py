"""``ocid-replay evidence``: a window of the log as one file that others can keep, hand on, and check without the log.

A tar file, compressed with gzip, of::

    README             what this is, and how to check it
    verify.json        what ``verify`` said of the log
    host.json          where it was collected
    keys.json          the records that say whose keys sign, with the notes that vouch for them
    checkpoints.jsonl  the newest checkpoint, and ones before it with proofs that its records begin with theirs
    events.jsonl       the records that were asked for, as ``timeline -o jsonl`` has them
    proofs.jsonl       for each what ``prove`` has of it, to the newest checkpoint; "proof" is null where none covers it
    documents/HEX      what they cite, named by its sha256
    confidential/HEX   what they cite of pods, its salt before it, named by the sha256 of both; only where asked for
    SHA256SUMS         of all of these, as sha256sum(1) writes and checks them
    custody.json       who collected it, when and how, and the digest of SHA256SUMS; for later hands to add to

Nothing is packed of a log that is damaged, or that is not what was signed for.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from ocid import tables
from ocid.domain.merkle import consistency_proof
from ocid.errors import Erased, InvalidRequest, NotFound
from ocid.events.envelope import Envelope
from ocid.events.log import LOG, Founded, KeyReplaced, KeyRotated
from ocid.ids import Digest
from ocid.journal.looking import look
from ocid.journal.reader import Reader
from ocid.journal.seals import Seals

from . import custody, timeline, verify
from .exits import OK
from .outputs import refuse_inside
from .package import Package
from .prove import all_coverings, proof_to
from .reading import log_directory, selected, selection_of
from .witness import witnessed

CHECKPOINTS_MAX: Final = 512  # about one a minute while anything happens
_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_encode = msgspec.json.Encoder().encode


def run(args: argparse.Namespace) -> int:
    """Check the log, and pack what the filters select."""
    directory = log_directory(args)
    refuse_inside(directory, args.write)
    if os.path.lexists(args.write):
        raise InvalidRequest(f"{args.write!r} is there already: evidence is never written over")
    key, kept = verify.key_of(args.key), None if args.witness is None else witnessed(args.witness)
    report, genesis, seals = verify.examine(directory, key, None if kept is None else kept.notes)
    code = verify.exit_code(report, seals)
    if code != OK or seals is None:
        sys.stderr.write(
            "\n".join(verify.text(directory, report, genesis, seals)) + "\nocid-replay: nothing was packed\n"
        )
        return code
    selection = selection_of(args)
    with look(directory) as reader, Package(Path(args.write)) as package:
        package.add("README", _README.encode())
        checked = {**verify.facts(report), "genesis": genesis.hex(), "seals": verify.seal_facts(seals)}
        package.add("verify.json", _indented(checked))
        package.add("host.json", _indented(custody.host()))
        packer = _Packer(reader, package, seals, confidential=args.confidential)
        packer.keys()
        packer.records(selected(reader, selection))
        entry = custody.collected(sys.argv, package.sums(), packer.found)
        package.add("custody.json", _indented({"format": custody.FORMAT, "entries": [entry]}))
        digest, size = package.finish()
    told = {"file": str(Path(args.write).resolve()), "sha256": digest, "bytes": size, **packer.found}
    if args.output == "json":
        tables.json(told)
    else:
        for name, value in told.items():
            tables.line(f"{name.replace('_', ' '):<14} {value}")
        tables.line("note the sha256 where the node cannot reach it; 'ocid-replay check-evidence' checks the rest")
    return OK


class _Packer:
    """Puts records, their proofs and what they cite into a package."""

    def __init__(self, reader: Reader, package: Package, seals: Seals, *, confidential: bool) -> None:
        self.found: dict[str, Any] = {"log": seals.origin, "key": seals.key}
        self._reader = reader
        self._package = package
        self._confidential = confidential
        self._coverings = all_coverings(reader)
        self._head = self._coverings[-1]

    def keys(self) -> None:
        """Pack what says whose keys sign."""
        found = []
        for envelope in self._reader.read_stream(LOG):
            if isinstance(envelope.event, Founded | KeyRotated | KeyReplaced):
                digest = getattr(envelope.event, "note", None)
                note = None if digest is None else self._reader.document(digest).decode()
                found.append({**timeline.facts(envelope), "note": note})
        self._package.add("keys.json", _indented(found))

    def records(self, found: Iterator[Envelope]) -> None:
        """Pack *found*, and all that belongs to it.

        Raises:
            NotFound: there are none.
        """
        first = last = count = proven = 0
        cited: set[bytes] = set()
        with self._package.file("proofs.jsonl") as proofs, self._package.file("events.jsonl") as events:
            for envelope in found:
                seq = last = envelope.seq
                if not count:
                    first = seq
                    self._checkpoints(seq)
                count += 1
                ((_, record),) = self._reader.records(seq, 1)
                cited.update(_DIGEST.findall(record))
                events.write(_encode(timeline.facts(envelope)) + b"\n")
                proof = self._proof(seq)
                proven += proof is not None
                proofs.write(_encode(proof or {"seq": seq, "proof": None}) + b"\n")
            if not count:
                raise NotFound("record", "that the filters select")
        self.found |= {"first_seq": first, "last_seq": last, "records": count, "proven": proven}
        self.found |= self._documents(cited)

    def _checkpoints(self, seq: int) -> None:
        """Pack the newest checkpoint, and those from the first one that covers *seq*, if these are not too many."""
        beyond = [each for each in self._coverings if each.size >= seq and each.size > self._reader.trimmed()[0]]
        with self._package.file("checkpoints.jsonl") as file:
            for covering in [*beyond[:-1][-CHECKPOINTS_MAX:], self._head]:
                path = consistency_proof(covering.size, self._head.size, self._reader.subtree)
                line = {"size": covering.size, "note": covering.note, "consistency": [each.hex() for each in path]}
                file.write(_encode(line) + b"\n")

    def _proof(self, seq: int) -> dict[str, object] | None:
        """Return the proof of a record; None when no checkpoint covers it yet."""
        if self._head.size < seq:
            return None
        proof = proof_to(self._reader, seq, self._head)
        if proof is None:
            raise InvalidRequest(f"record {seq} is not the one that was signed for")
        return proof

    def _documents(self, cited: set[bytes]) -> dict[str, int]:
        """Pack what is cited, and what that cites in turn; return how many of each kind there are."""
        counts = {"documents": 0, "confidential": 0, "withheld": 0, "erased": 0}
        done: set[bytes] = set()
        while wanted := sorted(cited - done):
            done.update(wanted)
            for name in wanted:
                kind, text = self._document(Digest(f"sha256:{name.decode()}"))
                if kind:
                    counts[kind] += 1
                if text:
                    self._package.add(f"{kind}/{name.decode()}", text)
                    cited.update(_DIGEST.findall(text))
        return counts

    def _document(self, digest: Digest) -> tuple[str, bytes]:
        """Return what kind of document it is and its bytes, b"" where they are not to be had; ("", b"") if it is none.

        A blob of an image, or an image, is no document of the log.
        """
        try:
            return "documents", self._reader.plain_document(digest)
        except NotFound:
            pass
        try:
            found = self._reader.confidential(digest)
        except Erased:
            return "erased", b""
        except NotFound:
            return "", b""
        return ("confidential", found.salt + found.text) if self._confidential else ("withheld", b"")


def _indented(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


_README: Final = """\
Records of the event log of a container runtime, ocid, with proofs that they are what was written.

  sha256sum -c SHA256SUMS                        nothing here was changed since it was collected
  ocid-replay check-evidence FILE --key KEY      and it is what the node's key signed for

The key must come from elsewhere than this file: from whoever noted what "ocid key" said on the node. Without ocid,
take a line of proofs.jsonl as a file: ocid's documentation has a short script that checks it, with Python's standard
library alone. A line whose proof is null is of a record that was not signed for when this was collected.

events.jsonl has the records as they are to be read. proofs.jsonl has their exact bytes. documents/ has what they
cite, named by its sha256; confidential/, where it was asked for, likewise, with 32 random bytes before each.
custody.json says who collected this, and with what; whoever hands it on adds an entry there.
"""
