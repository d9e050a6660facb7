"""``python -m ocid.cli.retain LOG THROUGH PLAN [ARCHIVES]``: what a trimming of the log would keep, and an archive.

A process of its own, at the lowest priority, so that reading the whole log holds nobody up. The plan goes to a file,
as msgpack of ``ocid.ports.retention.Plan``. The log is only read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from ocid.errors import NotFound, OcidError
from ocid.events.codec import Damaged
from ocid.ids import Digest, PodId, StreamId
from ocid.journal import archive
from ocid.journal.looking import envelopes, look
from ocid.journal.reader import Reader
from ocid.ports.retention import Archived, Plan
from ocid.projections.retention import Retention, cited
from ocid.projections.view import View

PODS_MAX: Final = 1 << 20


def plan(reader: Reader, through: int, archives: Path | None) -> Plan:
    """Return what a trimming up to *through* keeps, after archiving what is there up to it.

    Raises:
        Damaged: the log is not whole.
        OSError: the archive cannot be written.
    """
    view = View(reader.document)
    for envelope in envelopes(reader):
        view.apply(envelope)
    retention = Retention(view, through)
    for envelope in envelopes(reader):
        retention.see(envelope)
    kept = retention.kept()
    written = None if archives is None else _archive(reader, through, archives)
    pods = [
        pod_id
        for pod_id in reader.confiding_pods("", PODS_MAX)
        if pod_id not in view.pods.rows
        and pod_id not in view.containers.by_pod
        and not any(seq in kept or seq > through for seq in reader.seqs(_stream(pod_id)))
    ]
    return Plan(through, tuple(sorted(kept)), tuple(sorted(_uncited(reader, kept, through))), tuple(pods), written)


def _archive(reader: Reader, through: int, directory: Path) -> Archived | None:
    first = reader.trimmed()[0] + 1
    if first > through:
        return None
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / f"{first:020}-{through:020}{archive.SUFFIX}"
    written = archive.write(reader, first, through, path)
    return Archived(str(path), written.first, written.last, written.bytes, written.digest)


def _uncited(reader: Reader, kept: frozenset[int], through: int) -> set[bytes]:
    """Return the documents that no record which stays cites, nor a document that one cites, and so on."""
    found: set[bytes] = set()
    seq = 1
    while chunk := reader.records(seq):
        found |= cited(record for number, record in chunk if number > through or number in kept)
        seq = chunk[-1][0] + 1
    new = found
    while new:
        texts = [text for digest in new if (text := _text(reader, digest)) is not None]
        new = cited(texts) - found
        found |= new
    return {digest for digest in reader.document_digests() if digest not in found}


def _text(reader: Reader, digest: bytes) -> bytes | None:
    try:
        return reader.document(Digest(f"sha256:{digest.hex()}"))
    except (NotFound, OcidError):
        return None  # a blob's digest, or an erased document


def _stream(pod_id: PodId) -> StreamId:
    return StreamId(f"pod/{pod_id}")


def main(log: str, through: str, target: str, archives: str = "") -> int:
    """Write the plan."""
    os.nice(19)
    try:
        with look(Path(log)) as reader:
            made = plan(reader, int(through), Path(archives) if archives else None)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.msgpack.encode(made))
    except (OcidError, Damaged, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
