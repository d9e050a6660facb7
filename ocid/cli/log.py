"""The log as commands read it: beside a running daemon, or after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ocid.config import Loaded
from ocid.errors import NotFound, Unavailable
from ocid.events.codec import Damaged
from ocid.journal.looking import envelopes, look
from ocid.journal.reader import Reader
from ocid.projections.view import View, schema_hash

SNAPSHOT: Final = "view"  # the name that the daemon keeps its view's snapshots under


@contextmanager
def reading(loaded: Loaded) -> Iterator[Reader]:
    """Open the log of the configured root.

    Raises:
        Unavailable: no daemon ever ran there.
        EffectFailed: it cannot be opened.
        Damaged: it is not what was written.
    """
    try:
        reader = look(loaded.config.log_dir)
    except NotFound as error:
        raise Unavailable(
            f"there is no log in {str(loaded.config.log_dir)!r}: no daemon has run with this root yet; "
            "name another one with --root or --config"
        ) from error
    with reader:
        yield reader


def current_view(reader: Reader) -> View:
    """Return the view as of now: the newest snapshot, where it fits, and everything after it."""
    snapshot = reader.snapshot(SNAPSHOT, bytes.fromhex(schema_hash()))
    view = View(reader.document)
    if snapshot is not None:
        try:
            view.restore(snapshot.state)
        except (msgspec.MsgspecError, Damaged):
            view = View(reader.document)
    for envelope in envelopes(reader, view.seq + 1):
        view.apply(envelope)
    return view
