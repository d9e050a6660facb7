"""Stored records: round trip, damage, versions, and limits."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.events import codec, node, upcast
from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.codec import Damaged
from ocid.events.envelope import DAEMON
from tests.events.samples import BOOT_ID, envelope, events, sample

KINDS = [REGISTRY[name] for name in sorted(REGISTRY) if not name.startswith("test.")]


class Made(Event, frozen=True, kw_only=True):
    """Stands for a type that has had two earlier versions."""

    TYPE: ClassVar[str] = "test.made"
    VERSION: ClassVar[int] = 3
    name: str
    size_bytes: int
    colour: str = "none"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> type[Made]:
    monkeypatch.setitem(REGISTRY, Made.TYPE, Made)
    monkeypatch.setitem(codec._kinds, Made.TYPE, codec._Kind(Made))
    monkeypatch.setitem(upcast.STEPS, (Made.TYPE, 1), lambda old: {**old, "size_bytes": old["size_kib"] * 1024})
    monkeypatch.setitem(upcast.STEPS, (Made.TYPE, 2), lambda old: {**old, "name": old["name"].lower()})
    return Made


def stored(kind: str, version: int, fields: dict[str, Any]) -> bytes:
    """A record as another build of ocid has written it."""
    payload = msgspec.msgpack.encode(fields)
    written = envelope(Opaque(type=kind, type_version=version, payload=payload))
    return codec.encode(msgspec.structs.replace(written, type=kind, type_version=version))


@given(st.sampled_from(KINDS).flatmap(events), st.binary(min_size=32, max_size=32))
def test_every_event_comes_back_as_it_was(event: Event, prev_hash: bytes) -> None:
    written = envelope(event)

    record = codec.encode(written, prev_hash)

    assert codec.decode(record) == written
    assert codec.header_of(record).prev_hash == prev_hash


def test_an_envelope_without_origin_comes_back_with_the_daemons() -> None:
    written = msgspec.structs.replace(envelope(node.Stopped(reason="")), context=DAEMON)

    assert codec.decode(codec.encode(written)).context is DAEMON


def test_the_hash_is_the_leaf_hash_of_the_stored_bytes() -> None:
    """RFC 9162 section 2.1.1: MTH({d[0]}) = HASH(0x00 || d[0])."""
    record = codec.encode(envelope(sample(node.Started)))

    assert codec.hash_of(record) == hashlib.sha256(b"\0" + record[3:-32]).digest()


def test_the_header_alone_can_be_read() -> None:
    header = codec.header_of(codec.encode(envelope(node.Stopped(reason="x"), seq=41)))

    assert (header.seq, header.stream, header.type, header.version) == (41, "pod/3f2c", "node.stopped", 3)
    assert codec.boot_id_text(header.boot_id) == BOOT_ID


def test_a_header_with_more_fields_than_ours_is_read() -> None:
    event = node.Stopped(reason="later")
    payload = codec.payload_of(event)
    fields = msgspec.to_builtins(codec.header_of(codec.encode(envelope(event))), builtin_types=(bytes,))

    record, _ = codec.seal((*fields, "a later field", 9), payload)

    assert codec.decode(record) == envelope(event)


@given(st.sampled_from(KINDS).flatmap(events), st.data())
def test_any_flipped_bit_is_found(event: Event, data: st.DataObject) -> None:
    record = bytearray(codec.encode(envelope(event)))
    record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(Damaged):
        codec.decode(bytes(record))


@given(st.sampled_from(KINDS).flatmap(events), st.data())
def test_a_truncated_record_is_found(event: Event, data: st.DataObject) -> None:
    record = codec.encode(envelope(event))
    kept = record[: data.draw(st.integers(0, len(record) - 1))]

    with pytest.raises(Damaged):
        codec.decode(kept)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_header_decoder_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(Damaged):
        codec.header_of(raw)


def test_damage_names_the_record() -> None:
    record = bytearray(codec.encode(envelope(node.Stopped(reason="x"), seq=41)))
    record[-1] ^= 1

    with pytest.raises(Damaged, match="record 41: the record does not have the hash it carries"):
        codec.decode(bytes(record))


def test_an_unknown_type_is_kept_as_it_is() -> None:
    record = stored("test.of_the_future", 1, {"a": [1, 2]})

    decoded = codec.decode(record)

    assert decoded.event == Opaque(
        type="test.of_the_future", type_version=1, payload=msgspec.msgpack.encode({"a": [1, 2]})
    )
    assert codec.encode(decoded) == record


def test_a_newer_version_is_kept_as_it_is(made: type[Made]) -> None:
    record = stored(made.TYPE, made.VERSION + 1, {"name": "n", "size_bytes": 1, "shape": "round"})

    decoded = codec.decode(record)

    assert isinstance(decoded.event, Opaque)
    assert codec.encode(decoded) == record


def test_older_versions_are_read_as_today(made: type[Made]) -> None:
    first = codec.decode(stored(made.TYPE, 1, {"name": "N", "size_kib": 2}))
    second = codec.decode(stored(made.TYPE, 2, {"name": "N", "size_bytes": 5}))

    assert first.event == made(name="n", size_bytes=2048)
    assert second.event == made(name="n", size_bytes=5)
    assert (first.type_version, second.type_version) == (1, 2)  # as stored


def test_a_missing_step_is_a_bug(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(upcast.STEPS, (made.TYPE, 2))

    with pytest.raises(AssertionError, match=r"no step from version 2 of event type 'test.made'"):
        codec.decode(stored(made.TYPE, 1, {"name": "N", "size_kib": 2}))


@pytest.mark.parametrize("version", [1, 3])
def test_a_payload_of_other_fields_is_damage(made: type[Made], version: int) -> None:
    with pytest.raises(Damaged, match=r"the payload is no 'test\.made'"):
        codec.decode(stored(made.TYPE, version, {"name": "N", "size_kib": "x"}))


def test_a_field_of_a_later_build_is_ignored(made: type[Made]) -> None:
    record = stored(made.TYPE, 3, {"name": "n", "size_bytes": 1, "colour": "red", "extra": True})

    assert codec.decode(record).event == made(name="n", size_bytes=1, colour="red")


def test_free_text_is_cut_until_the_record_fits() -> None:
    event = node.RequestRefused(rpc="RunPodSandbox", error="Unavailable", message="é" * 5000 + "the cause")

    fitted = codec.fit(event)

    assert isinstance(fitted, node.RequestRefused)
    assert len(codec.payload_of(fitted)) <= codec.PAYLOAD_BYTES_MAX
    assert len(codec.encode(envelope(fitted))) <= codec.RECORD_BYTES_MAX
    assert fitted.message.startswith("…")
    assert fitted.message.endswith("the cause")
    assert fitted.error == "Unavailable"


def test_an_event_that_fits_is_left_alone() -> None:
    event = node.RequestRefused(rpc="RunPodSandbox", error="Unavailable", message="m" * 1000)

    assert codec.fit(event) is event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TYPE)
def test_the_sample_of_every_event_fits_a_record(kind: type[Event]) -> None:
    assert len(codec.encode(envelope(sample(kind)))) <= codec.RECORD_BYTES_MAX
