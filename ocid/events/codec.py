"""Stored record bytes to envelope and back. Pure.

A record is::

    format (1 byte) ‖ header length (2 bytes, big-endian) ‖ header ‖ payload ‖ hash (32 bytes)

*header* is a msgpack array, see ``Header``; fields may be appended to it in later builds, and none is ever removed. A
field that was appended is left out where it and all after it are empty, so a record without it is what it always was.
*payload* is the msgpack map of the event's own fields, all of them, defaults included: what a record means never
depends on the build that reads it. *hash* is SHA-256(0x00 ‖ header ‖ payload) over the exact stored bytes, which is the
leaf hash of RFC 9162 section 2.1.1, so that a Merkle tree over the log needs no second hash. Each header holds the hash
of the record before it. The three bytes in front need no hash: a wrong format is refused, and since both parts are
self-delimiting msgpack, a wrong length cannot decode.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final

import msgspec

from ocid.events import (
    base,
    checkpoint as _checkpoint,
    container as _container,  # each module enters its events in the registry
    exec as _exec,
    image as _image,
    layer as _layer,
    log as _log,
    node as _node,
    pod as _pod,
    session as _session,
    trace,
    upcast,
)
from ocid.events.base import Event, Opaque
from ocid.events.envelope import DAEMON, Context, Envelope
from ocid.ids import StreamId

MODULES: Final = (_checkpoint, _container, _exec, _image, _layer, _log, _node, _pod, _session)
RECORD_BYTES_MAX: Final = 2000  # a longer value leaves LMDB's leaf page for overflow pages of its own
PAYLOAD_BYTES_MAX: Final = 1500  # what a record has left beside prefix, hash and the longest header we write
FREE_TEXT: Final = ("message", "reason", "error")  # fields that ``fit`` may cut
NO_HASH: Final = bytes(32)  # what record 1 cites

_FORMAT: Final = 1
_PREFIX: Final = struct.Struct(">BH")
_HASH_BYTES: Final = 32
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)
_RECORD_BYTES_MIN: Final = _PREFIX.size + 2 + _HASH_BYTES


class Damaged(Exception):
    """Stored bytes are not what was written. Never a caller's fault, so it stands outside the tree of ``ocid.errors``.

    ``seq`` is 0 where the damage hides it.
    """

    def __init__(self, what: str, seq: int = 0) -> None:
        super().__init__(f"record {seq}: {what}" if seq else what)
        self.what = what
        self.seq = seq


class Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a record says about its event, in the order it is stored."""

    seq: int
    stream: StreamId
    version: int
    type: str
    type_version: int
    wall_ns: int
    boot_ns: int
    boot_id: bytes  # 16 bytes
    epoch: int
    who: int
    correlation: str
    cause: int
    command_id: str
    prev_hash: bytes  # 32 bytes: the hash of the record before this one
    trace: bytes = b""  # 25 bytes: the caller's trace, see ``ocid.events.trace``; left out where there is none


class _Kind:
    """A known type of event, with what reading it needs, built once."""

    __slots__ = ("decode", "struct", "version")

    def __init__(self, struct: type[Event]) -> None:
        self.struct = struct
        self.version = struct.VERSION
        self.decode = msgspec.msgpack.Decoder(struct).decode


_kinds: dict[str, _Kind] = {name: _Kind(struct) for name, struct in base.REGISTRY.items()}
_boot_ids: dict[bytes, str] = {}  # a log knows few boots; their texts are made once
_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_unpack_prefix = _PREFIX.unpack_from
_sha256 = hashlib.sha256


def payload_of(event: Event) -> bytes:
    """Encode the event's own fields."""
    return event.payload if type(event) is Opaque else _encode(event)


def name_of(event: Event) -> tuple[str, int]:
    """Return the type and the type's version to store *event* under."""
    return (event.type, event.type_version) if type(event) is Opaque else (event.TYPE, event.VERSION)


def is_known(name: str) -> bool:
    """Say whether this build has that type of event."""
    return name in _kinds or name in base.REGISTRY


def appended(context: Context) -> tuple[bytes, ...]:
    """Return the fields of ``Header`` that follow the hash of the record before, as far as *context* has them."""
    return (trace.pack(context.trace),) if context.trace else ()


def seal(header: tuple[Any, ...], payload: bytes) -> tuple[bytes, bytes]:
    """Return the record of *header*, the fields of ``Header`` in their order, and *payload*; and its hash."""
    head = _encode(header)
    body = head + payload
    digest = _sha256(b"\0" + body).digest()
    return _PREFIX.pack(_FORMAT, len(head)) + body + digest, digest


def encode(envelope: Envelope, prev_hash: bytes = NO_HASH) -> bytes:
    """Return the record of *envelope*, following the record that has *prev_hash*."""
    context = envelope.context
    header = (
        envelope.seq, envelope.stream, envelope.version, envelope.type, envelope.type_version,
        envelope.wall_ns, envelope.boot_ns, bytes.fromhex(envelope.boot_id.replace("-", "")), envelope.epoch,
        context.who, context.correlation, context.cause, context.command_id, prev_hash,
        *appended(context),
    )  # fmt: skip
    return seal(header, payload_of(envelope.event))[0]


def hash_of(record: bytes) -> bytes:
    """Return the hash that *record* carries, unchecked."""
    return record[-_HASH_BYTES:]


def header_of(record: bytes) -> Header:
    """Decode the header alone, for filters; the hash is not checked.

    Raises:
        Damaged: it is no header.
    """
    return _split(record)[0]


def check(record: bytes) -> None:
    """Compare the record with the hash it carries.

    Raises:
        Damaged: they differ.
    """
    if len(record) < _RECORD_BYTES_MIN:
        raise Damaged(f"{len(record)} bytes are too few for a record")
    if _sha256(b"\0" + record[3:-32]).digest() != record[-32:]:
        raise Damaged("the record does not have the hash it carries", _seq_of(record))


def checked(record: bytes) -> Header:
    """Compare the record with the hash it carries, and decode the header: ``check`` and ``header_of`` in one.

    Raises:
        Damaged: they differ, or it is no header.
    """
    body = record[3:-32]
    if len(record) < _RECORD_BYTES_MIN or _sha256(b"\0" + body).digest() != record[-32:]:
        check(record)
    form, length = _unpack_prefix(record)
    if form != _FORMAT:
        return header_of(record)  # says why not
    try:
        return _decode_header(body[:length])
    except _UNREADABLE as error:
        raise Damaged(f"the header does not decode: {error}") from error


def event_of(header: Header, record: bytes) -> Event:
    """Return the event alone of a record whose header is decoded and whose hash is checked.

    Raises:
        Damaged: the payload is not what was written.
    """
    return _event(header, memoryview(record)[3 + _unpack_prefix(record)[1] : -32])


def decode(record: bytes) -> Envelope:
    """Return the envelope that *record* holds, after checking its hash.

    An event of an unknown type, or of a version newer than ours, comes as ``Opaque``; an older version is read through
    ``ocid.events.upcast``.

    Raises:
        Damaged: the bytes are not what was written.
    """
    check(record)
    header, payload = _split(record)
    event = _event(header, payload)
    who, correlation, cause, command_id = header.who, header.correlation, header.cause, header.command_id
    plain = not (who or correlation or cause or command_id or header.trace)
    return Envelope(
        seq=header.seq,
        stream=header.stream,
        version=header.version,
        type=header.type,
        type_version=header.type_version,
        wall_ns=header.wall_ns,
        boot_ns=header.boot_ns,
        boot_id=_boot_ids.get(header.boot_id) or boot_id_text(header.boot_id),
        epoch=header.epoch,
        context=DAEMON
        if plain
        else Context(who=who, correlation=correlation, cause=cause, command_id=command_id, trace=_trace_of(header)),
        event=event,
    )


def fit(event: Event) -> Event:
    """Return *event* with its free text cut so far that its record stays under ``RECORD_BYTES_MAX``, if that can be.

    The end of a text is kept: it is where tools put the cause. An event whose other fields are too long comes back too
    long; see ``payload_of`` and ``PAYLOAD_BYTES_MAX``.
    """
    excess = len(payload_of(event)) - PAYLOAD_BYTES_MAX
    if excess <= 0:
        return event
    cut: dict[str, str] = {}
    for field in FREE_TEXT:
        text = getattr(event, field, None)
        if excess > 0 and isinstance(text, str) and text:
            raw = text.encode()
            kept = raw[min(len(raw), excess + len("…".encode())) :].decode("utf-8", "ignore")
            cut[field] = "…" + kept
            excess -= len(raw) - len(cut[field].encode())
    return msgspec.structs.replace(event, **cut) if cut else event


def boot_id_text(raw: bytes) -> str:
    """Return a boot id as the kernel writes it."""
    digits = raw.hex()
    text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return _boot_ids.setdefault(raw, text)


def _trace_of(header: Header) -> str:
    try:
        return trace.unpack(header.trace)
    except ValueError as error:
        raise Damaged(str(error), header.seq) from error


def _split(record: bytes) -> tuple[Header, memoryview]:
    if len(record) < _RECORD_BYTES_MIN:
        raise Damaged(f"{len(record)} bytes are too few for a record")
    form, length = _unpack_prefix(record)
    if form != _FORMAT:
        raise Damaged(f"record format {form} is unknown: this build reads format {_FORMAT}")
    view = memoryview(record)
    try:
        return _decode_header(view[3 : 3 + length]), view[3 + length : -32]
    except _UNREADABLE as error:
        raise Damaged(f"the header does not decode: {error}") from error


def _seq_of(record: bytes) -> int:
    try:
        return _split(record)[0].seq
    except Damaged:
        return 0


def _event(header: Header, payload: memoryview) -> Event:
    kind = _kinds.get(header.type) or _learn(header.type)
    if kind is None or kind.version != header.type_version:
        return _foreign(header, kind, payload)
    try:
        return kind.decode(payload)
    except _UNREADABLE as error:
        raise Damaged(f"the payload is no {header.type!r}: {error}", header.seq) from error


def _learn(name: str) -> _Kind | None:
    """Take up a type that entered the registry after this module was imported, as those of tests do."""
    struct = base.REGISTRY.get(name)
    if struct is None:
        return None
    kind = _kinds[name] = _Kind(struct)
    return kind


def _foreign(header: Header, kind: _Kind | None, payload: memoryview) -> Event:
    """Read an event that this build does not store in this way."""
    if kind is None or header.type_version > kind.version:
        return Opaque(type=header.type, type_version=header.type_version, payload=bytes(payload))
    try:
        fields = msgspec.msgpack.decode(payload, type=dict[str, Any])
        fields = upcast.upcast(header.type, header.type_version, kind.version, fields)
        return msgspec.convert(fields, kind.struct)
    except _UNREADABLE as error:
        raise Damaged(f"the payload is no {header.type!r}: {error}", header.seq) from error
