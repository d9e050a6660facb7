"""The worker that reads archives of container checkpoints: one process for each job, shut into one directory.

Jobs, the first word of the command line::

    read     look through an archive and tell its digest and its documents; nothing is written
    unpack   write what is allowed of an archive into the directory, and check its digest
    layer    write a rootfs-diff.tar into the directory, as a layer: compressed, with whiteouts, as containerd packs it
    files    the same, of plain files: plain, and every name means itself

Started as ``ocid.adapters.unpack_worker`` is, and as confined.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from ocid.adapters import confine
from ocid.adapters.unpack_tree import Tree
from ocid.adapters.unpack_worker import KEPT, Blob, end_with_daemon, load
from ocid.domain import archive, checkpoint_archive as rules, tar
from ocid.errors import EffectFailed, Exhausted, OcidError


def read(blob: Blob, limits: archive.Limits) -> str:
    """Return the archive's digest and its documents, as one line of JSON."""
    reader, members, documents = tar.Reader(blob.read), rules.Members(), {}
    while (entry := reader.next()) is not None:
        limits.count(entry.name)
        path = members.place(entry)
        if path in rules.DOCUMENTS and path is not None:
            documents[path.decode()] = reader.data(entry).decode("utf-8", "replace")
    members.require()
    return json.dumps({"digest": blob.digest(), "documents": documents})


def unpack(blob: Blob, digest: str, limits: archive.Limits) -> str:
    """Write the archive's allowed files, as root's own."""
    reader, members, tree = tar.Reader(blob.read), rules.Members(), Tree(limits, layered=False)
    while (entry := reader.next()) is not None:
        path = members.place(entry)
        if path is None:
            limits.count(entry.name)
            continue
        entry.uid = entry.gid = 0
        entry.mode, entry.xattrs = 0o700 if entry.kind == tar.DIRECTORY else 0o600, None
        tree.add(entry, reader)
    members.require()
    if blob.digest() != digest:
        raise EffectFailed(f"it has digest {blob.digest()}, it had {digest} when its container was created: refused")
    tree.finish()
    return ""


def apply(blob: Blob, limits: archive.Limits, *, layered: bool) -> str:
    """Write changed files; return a line of JSON with the directories that no entry described."""
    reader, tree = tar.Reader(blob.read), Tree(limits, layered=layered)
    while (entry := reader.next()) is not None:
        tree.add(entry, reader)
    tree.finish()
    implied = tree.implied()
    if len(implied) > rules.IMPLIED_MAX:
        raise Exhausted(f"its changed files imply {len(implied)} directories, the limit is {rules.IMPLIED_MAX}")
    return json.dumps([os.fsdecode(path) for path in implied])


def main() -> None:
    """Do the job that the command line describes, answer, and end."""
    job, directory, packing, digest, *numbers = sys.argv[1:]
    descriptor, blob_bytes, bytes_max, entries_max = (int(number) for number in numbers)
    limits = archive.Limits(bytes_max=bytes_max, entries_max=entries_max)
    try:
        load(packing)
        confine.shut_in(directory, KEPT, bytes_max)
        threading.Thread(target=end_with_daemon, daemon=True).start()
        blob = Blob(descriptor, packing, blob_bytes, limits)
        if job == "read":
            said = read(blob, limits)
        elif job == "unpack":
            said = unpack(blob, digest, limits)
        else:
            said = apply(blob, limits, layered=job == "layer")
        answer = f"ok {said}"
    except OcidError as error:
        answer = f"{type(error).__name__} {error.message}"
    except MemoryError:
        answer = "Exhausted it needs more than 1 GiB of memory to unpack: refused"
    rest = answer.encode("utf-8", "replace")
    while rest:
        rest = rest[os.write(1, rest) :]
    os._exit(0)  # not a moment for tidying up threads that may wait for each other
