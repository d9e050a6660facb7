"""W3C trace context: what is taken for one, and that records hold it and are what they were without it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.events import codec, node, trace
from ocid.events.codec import Damaged
from ocid.events.envelope import DAEMON, Context
from ocid.projections.fields import plain
from tests.events.samples import envelope

ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACE = f"{ID}-{PARENT}-01"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([f"00-{TRACE}"], TRACE),
        ([f"00-{ID}-{PARENT}-00"], f"{ID}-{PARENT}-00"),
        ([f"00-{ID}-{PARENT}-ff"], f"{ID}-{PARENT}-ff"),
        ([], ""),
        ([""], ""),
        ([f"00-{TRACE}", f"00-{TRACE}"], ""),  # two headers, even alike
        ([f"01-{TRACE}"], ""),  # another version
        ([f"ff-{TRACE}"], ""),
        ([f"00-{TRACE}-more"], ""),
        ([f"00-{TRACE}-"], ""),
        ([f"00-{TRACE}\n"], ""),
        ([f" 00-{TRACE}"], ""),
        ([f"00-{ID.upper()}-{PARENT}-01"], ""),  # "lowercase"
        ([f"00-{'0' * 32}-{PARENT}-01"], ""),
        ([f"00-{ID}-{'0' * 16}-01"], ""),
        ([f"00-{ID[1:]}-{PARENT}-01"], ""),
        ([f"00-{ID}{PARENT}-01"], ""),
        ([f"00-{ID}-{PARENT}"], ""),
        ([f"00-{ID}-{PARENT}-0"], ""),
        ([f"00-{'٠' * 32}-{PARENT}-01"], ""),  # digits, but not of ASCII
        ([f"00-{ID}-{PARENT}-0\0"], ""),
        (["0" * 100_000], ""),
        ([f"00-{TRACE}".encode()], ""),  # as a header of bytes would come
        ([None], ""),
    ],
)
def test_what_is_a_traceparent_and_what_is_not(values: list[object], told: str) -> None:
    assert trace.parse(values) == told


@given(st.lists(st.one_of(st.text(), st.binary(), st.none()), max_size=3))
def test_no_header_makes_the_parser_fail(values: list[object]) -> None:
    assert trace.parse(values) == ""


@given(st.binary(min_size=trace.BYTES, max_size=trace.BYTES).filter(lambda raw: any(raw[:16]) and any(raw[16:24])))
def test_every_trace_comes_back_from_record_and_header(raw: bytes) -> None:
    told = trace.unpack(raw)

    assert trace.pack(told) == raw
    assert trace.parse([trace.traceparent(told)]) == told
    assert trace.trace_id(told) == raw[:16].hex()


def test_no_trace_is_no_bytes() -> None:
    assert trace.pack("") == b""
    assert trace.unpack(b"") == ""
    assert trace.trace_id("") == ""


def traced(context: Context) -> bytes:
    return codec.encode(msgspec.structs.replace(envelope(node.Stopped(reason="x")), context=context))


@pytest.mark.parametrize("context", [Context(trace=TRACE), Context(who=3, correlation="c", cause=2, trace=TRACE)])
def test_a_record_keeps_the_trace(context: Context) -> None:
    decoded = codec.decode(traced(context))

    assert decoded.context == context
    assert plain(decoded)["trace"] == TRACE


def test_a_record_without_a_trace_is_what_it_was_before_there_were_traces() -> None:
    """So every old log decodes, and a client that does not trace costs no byte."""
    record = traced(Context(who=3))
    fields = msgspec.msgpack.decode(record[3 : 3 + int.from_bytes(record[1:3], "big")])

    assert len(fields) == 14
    assert len(traced(Context(who=3, trace=TRACE))) == len(record) + 2 + trace.BYTES
    assert codec.decode(record).context == Context(who=3)
    assert codec.decode(traced(DAEMON)).context is DAEMON


@pytest.mark.parametrize("raw", [b"x", bytes(24), bytes(26), bytes(500)])
def test_a_trace_of_another_length_is_damage(raw: bytes) -> None:
    event = node.Stopped(reason="x")
    header = msgspec.to_builtins(codec.header_of(codec.encode(envelope(event))), builtin_types=(bytes,))
    record, _ = codec.seal((*header[:14], raw), codec.payload_of(event))

    with pytest.raises(Damaged, match="record 7: a trace has 25 bytes"):
        codec.decode(record)
