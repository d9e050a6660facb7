"""What a checkpoint looks like in syslog and OTLP, and which answers of a collector mean yes."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given, strategies as st

from ocid.domain import witness
from ocid.errors import EffectFailed, InvalidRequest
from tests.fakes.witnesses import ORIGIN, checkpoint

NOTE = checkpoint(4096)
WALL_NS = 1_763_956_800_000_042_789


def test_a_syslog_message_is_one_line_that_holds_the_note() -> None:
    message = witness.syslog_message(NOTE, wall_ns=WALL_NS, host="node-7", pid=812)
    head = b"<109>1 2025-11-24T04:00:00.000042Z node-7 ocid 812 checkpoint - ocid-checkpoint size=4096 note="
    assert message.startswith(head)
    packed = message.removeprefix(head)
    assert re.fullmatch(rb"[A-Za-z0-9_-]+=*", packed), "nothing that JSON or a shell would have to escape"
    assert base64.urlsafe_b64decode(packed).decode() == NOTE
    assert len(message) <= witness.SYSLOG_BYTES_MAX


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("a b\nc", b"abc"),
        ("", b"-"),
        ("\x00 ", b"-"),
        ("é", b"-"),
        ("x" * 300, b"x" * 255),
        ("n.example", b"n.example"),
    ],
)
def test_a_host_name_cannot_break_the_header(host: str, named: bytes) -> None:
    message = witness.syslog_message(NOTE, wall_ns=0, host=host, pid=1)
    assert message.startswith(b"<109>1 1970-01-01T00:00:00.000000Z %s ocid 1 checkpoint - " % named)
    assert b"\n" not in message


def test_a_note_that_syslog_cannot_carry_is_refused() -> None:
    longest = checkpoint(10**18, origin="o" * 200)
    assert len(witness.syslog_message(longest, wall_ns=0, host="h" * 255, pid=1 << 22)) <= witness.SYSLOG_BYTES_MAX
    with pytest.raises(EffectFailed, match="limit is 2048"):
        witness.syslog_message(checkpoint(1, further=("x" * 1500,)), wall_ns=0, host="h", pid=1)


@pytest.mark.parametrize("message", [b"", b"x", b"a\nb", "é".encode(), b"y" * 12_345])
def test_frames_begin_with_the_number_of_bytes(message: bytes) -> None:
    count, _, rest = witness.framed(message).partition(b" ")
    assert (int(count), rest) == (len(message), message)


def test_an_otlp_request_holds_the_note_and_what_it_says() -> None:
    request = json.loads(witness.otlp_request(NOTE, wall_ns=WALL_NS, host="node-7", version="1.2"))
    (resource,) = request["resourceLogs"]
    assert {one["key"]: one["value"] for one in resource["resource"]["attributes"]} == {
        "service.name": {"stringValue": "ocid"},
        "host.name": {"stringValue": "node-7"},
    }
    (scope,) = resource["scopeLogs"]
    assert scope["scope"] == {"name": "ocid", "version": "1.2"}
    (record,) = scope["logRecords"]
    assert record["eventName"] == "ocid.checkpoint"
    assert record["body"] == {"stringValue": NOTE}
    assert record["timeUnixNano"] == record["observedTimeUnixNano"] == str(WALL_NS)
    assert {one["key"]: one["value"] for one in record["attributes"]} == {
        "ocid.checkpoint.origin": {"stringValue": ORIGIN},
        "ocid.checkpoint.size": {"intValue": "4096"},
        "ocid.checkpoint.root": {"stringValue": base64.b64decode(NOTE.split("\n")[2]).hex()},
    }


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (b"", True),
        (b" \n", True),
        (b"{}", True),
        (b'{"partialSuccess":null}', True),
        (b'{"partialSuccess":{}}', True),
        (b'{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"slow down"}}', True),
        (b'{"partialSuccess":{"rejectedLogRecords":0},"more":[1]}', True),
        (b'{"partialSuccess":{"rejectedLogRecords":"1"}}', False),
        (b'{"partialSuccess":{"rejectedLogRecords":1,"errorMessage":"no"}}', False),
        (b'{"partialSuccess":{"rejectedLogRecords":"many"}}', False),
        (b'{"partialSuccess":{"rejectedLogRecords":null}}', False),
        (b'{"partialSuccess":7}', False),
        (b"[]", False),
        (b"7", False),
        (b"<html>Welcome</html>", False),
        (b"\xff\xfe", False),
        (b'{"partialSuccess":' + b"[" * 100_000, False),
        (b'{"x":' + b"[" * 100_000, False),
    ],
)
def test_which_answers_mean_that_a_record_was_taken(answer: bytes, taken: bool) -> None:
    assert witness.otlp_takes(answer) is taken


@given(st.binary(max_size=60))
def test_any_answer_means_something(answer: bytes) -> None:
    witness.otlp_takes(answer)


def test_only_checkpoints_have_a_size() -> None:
    assert witness.size_of(NOTE) == 4096
    for text in ("", "x", NOTE.replace("4096", "many"), NOTE.rpartition("\n\n")[0]):
        with pytest.raises(InvalidRequest):
            witness.size_of(text)
