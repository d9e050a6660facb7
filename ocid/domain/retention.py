"""Which records stay of a log that is trimmed, written down. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from ocid.errors import InvalidRequest


def encode_kept(seqs: Iterable[int]) -> bytes:
    """Return the document of ``log.trimmed``: which records stay, as msgpack of the steps between them."""
    steps, last = [], 0
    for seq in sorted(seqs):
        steps.append(seq - last)
        last = seq
    return msgspec.msgpack.encode(steps)


def decode_kept(document: bytes) -> frozenset[int]:
    """Return what ``encode_kept`` was given.

    Raises:
        InvalidRequest: it is no such document.
    """
    try:
        return frozenset(itertools.accumulate(msgspec.msgpack.decode(document, type=list[int])))
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the document that says what stays of the log does not decode: {error}") from error
