"""``ocid drift CONTAINER``: what a container's writable layer changed of its image, with hashes."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Iterator
from typing import Final

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import current_view
from ocid.domain.changes import CHANGED, MOUNT_POINT, Change, Entry, Walk, visible
from ocid.journal.reader import Reader
from ocid.projections.changes import find_container, layers_of
from ocid.projections.text import size, time_text

DIFFERENT: Final = 8  # exit code: there are differences
COLUMNS: Final = ("CHANGE", "PATH", "DETAIL", "IN THE IMAGE", "SHA256")


def run(args: argparse.Namespace, reader: Reader, root: str, deps: Deps) -> int:
    """Print the changes; return 0 where there are none, else 8.

    Raises:
        NotFound: there is no such container, or its writable layer is gone.
        InvalidRequest: several containers are meant.
    """
    view = current_view(reader)
    declared = find_container(view, args.container)
    layers = layers_of(view, declared, root, reader.document)
    walked = deps.survey.changes(layers, args.max_bytes)
    shown = [one for one in walked.changes if args.all or one.change != MOUNT_POINT]
    about = {
        "container": declared.container_id,
        "name": declared.name,
        "pod": declared.pod_id,
        "image": declared.image_ref,
        "image_id": declared.image_id,
        "layers": [one.chain_id for one in reversed(layers.lowers)],
        "writable_layer": layers.upper,
        "seq": view.seq,
    }
    if args.output == "json":
        summary = {"bytes_read": walked.bytes_read, "not_hashed": walked.not_hashed, "complete": walked.complete}
        tables.json({**about, **summary, "changes": shown})
    elif args.output == "jsonl":
        tables.json_lines(shown)
    else:
        tables.line(
            f"container {declared.container_id} ({declared.name}), of {declared.image_ref}, {len(layers.lowers)} layers"
        )
        if shown:
            tables.show(COLUMNS, rows(shown))
        for text in remarks(walked, len(walked.changes) - len(shown)):
            tables.line(text)
    return DIFFERENT if any(one.change != MOUNT_POINT for one in walked.changes) else 0


def rows(changes: list[Change]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows. Pure."""
    for one in changes:
        what = f"{', '.join(one.what)} changed: " if one.change == CHANGED else ""
        now = f"{what}{_entry(one.now)}, {time_text(one.now.mtime_ns)}" if one.now is not None else ""
        detail = f"{now} ({one.note})".strip() if one.note else now
        before = f"{_entry(one.before)}, layer {one.layer_number}" if one.before is not None else ""
        was = one.before.sha256 if one.before is not None else ""
        hashes = one.now.sha256 if one.now is not None else ""
        if was not in ("", hashes):
            hashes = f"{hashes} was {was}" if hashes else f"was {was}"
        path = one.path if one.path_hex else visible(one.path)
        yield one.change, path, detail, before, hashes


def remarks(walked: Walk, left_out: int) -> Iterator[str]:
    """Yield what a reader of the table has to know. Pure."""
    if not walked.changes:
        yield "the writable layer is empty"
    if left_out:
        yield f"{left_out} mount points that the OCI runtime made are left out; --all shows them"
    if walked.not_hashed:
        yield f"{walked.not_hashed} files were not hashed, for they go beyond --max-bytes"
    if not walked.complete:
        yield "not everything was looked into: see the lines that say so"


def _entry(entry: Entry) -> str:
    """Write an entry as ls does, more or less."""
    words = [entry.kind, stat.filemode(entry.mode)[1:], f"{entry.uid}:{entry.gid}"]
    words += [size(entry.size)] if entry.kind == "file" else []
    words += [f"→ {entry.target}"] if entry.kind == "symlink" else []
    words += [entry.device] if entry.device else []
    words += [f"{name}={value}" for name, value in entry.xattrs.items()]
    return " ".join(words)
