"""Finding checkpoints in the files of witnesses, whatever else is in them, and comparing a log with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from ocid_replay import witness as kept
from ocid_replay.__main__ import main
from ocid_replay.witness import kept_in

from ocid.domain import witness
from ocid.errors import EffectFailed
from tests.fakes.author import Author
from tests.fakes.witnesses import checkpoint

A, B, C = checkpoint(1), checkpoint(2), checkpoint(3)


def syslog(note: str) -> str:
    """A line as a file of rsyslog has it: the header is another one than we sent."""
    message = witness.syslog_message(note, wall_ns=0, host="node", pid=1).decode()
    return f"2026-05-04T10:00:00+00:00 node ocid[1] {message.partition(' - ')[2]}\n"


def otlp(*notes: str) -> str:
    """A line as a collector's file exporter writes it: several requests in one."""
    requests = [json.loads(witness.otlp_request(note, wall_ns=0, host="n", version="1")) for note in notes]
    return json.dumps({"resourceLogs": [one for request in requests for one in request["resourceLogs"]]}) + "\n"


FOREIGN_SYSLOG = "May  4 10:00:00 node sshd[7]: Accepted publickey — for root\nMay  4 10:00:01 node kernel: {x}\n"
FOREIGN_OTLP = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"hello"}}]}]}]}\n'


@pytest.mark.parametrize(
    ("text", "notes", "damaged"),
    [
        ("", [], 0),
        ("\n\n", [], 0),
        (A, [A], 0),
        (A + B + C, [A, B, C], 0),
        (A + "\n\n" + B, [A, B], 0),
        (A[:40] + "\n" + B, [B], 0),  # torn in the root: the next append began a new line
        (A[: A.index("\n\n") + 1] + B, [B], 0),  # torn before the empty line
        (A[:3] + B, [A[:3] + B], 0),  # appended by somebody who began no new line: of a log that is not asked about
        (A[:-20] + "\n" + B, [B], 1),  # torn in the signature
        (A + B[:30], [A], 0),  # being written just now
        (A[20:] + B, [A[20:], B], 0),  # the beginning was cut off
        (A.replace("\n1\n", "\nmany\n") + B, [B], 1),
        ("garbage\n" + A, [A], 0),
        ("garbage\n", [], 0),
        (syslog(A) + FOREIGN_SYSLOG + syslog(B), [A, B], 0),
        (FOREIGN_SYSLOG, [], 0),
        (syslog(A)[:-30] + "\n" + syslog(B), [B], 1),  # cut by a receiver with a shorter limit
        (json.dumps({"MESSAGE": syslog(A).partition("ocid[1] ")[2].strip()}) + "\n", [A], 0),  # journalctl -o json
        (syslog(A).replace("note=", "note=%"), [], 1),
        (otlp(A) + FOREIGN_OTLP + otlp(B, C), [A, B, C], 0),
        (otlp(A)[:-30] + "\n" + otlp(B), [B], 0),
        ('{"resourceLogs":7}\n{"x":' + "[" * 100_000 + "\n" + otlp(A), [A], 0),
        (A + syslog(B) + otlp(C), [B, C, A], 0),
    ],
)
def test_whole_checkpoints_are_found(text: str, notes: list[str], damaged: int) -> None:
    found = kept_in(text)
    assert (found.notes, found.damaged) == (notes, damaged)


@given(
    st.lists(st.sampled_from([A, B, syslog(A), otlp(B), FOREIGN_SYSLOG, "— \n", "\n"]), max_size=6),
    st.integers(0, 2000),
    st.text(max_size=3),
)
def test_any_file_gives_whole_checkpoints_only(pieces: list[str], at: int, put: str) -> None:
    text = "".join(pieces)
    found = kept_in(text[:at] + put + text[at:])
    for one in found.notes:
        witness.size_of(one)


@given(st.sampled_from([A, syslog(A), otlp(A)]), st.integers(0, 700))
def test_what_was_torn_hides_nothing_that_follows(first: str, at: int) -> None:
    torn = first[:at]
    for following in (B, syslog(B), otlp(B)):
        assert B in kept_in(torn + ("" if torn.endswith("\n") or not torn else "\n") + following).notes


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    path.write_text(A)
    monkeypatch.setattr(kept, "FILE_BYTES_MAX", len(A))
    assert kept.witnessed([str(path), str(path)]).notes == [A], "sent twice, kept once"
    path.write_text(A + "x")
    with pytest.raises(EffectFailed, match="give it in parts"):
        kept.witnessed([str(path)])
    path.write_bytes(b"\xff\xfe\x00\n" + A.encode().replace(b"\n", b"\r\n"))
    monkeypatch.undo()
    assert kept.witnessed([str(path)]).notes == [A]


Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path / "log").found().write(300).seal().write(20).seal()


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Verify:
    def run(log: Author, *words: str, text: str) -> tuple[int, str]:
        log.store.close()
        (tmp_path / "kept").write_text(text)
        words = ("verify", "--log", str(log.store.directory), "--witness", str(tmp_path / "kept"), *words)
        code = main(list(words), guard=lambda work: work())
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("form", [str, syslog, otlp])
def test_a_log_is_compared_with_what_each_kind_of_witness_keeps(
    author: Author, verify: Verify, tmp_path: Path, form: Callable[[str], str]
) -> None:
    text = "".join(map(form, author.notes))
    code, out = verify(author, text=text)
    assert code == 0
    assert "a witness saw the first 322 records as they are" in out
    forged = Author(tmp_path / "forged").found().write(3, first=7).write(400).seal()
    code, out = verify(forged, text=text)
    assert code == 3
    assert "are not those that it saw" in out
    short = Author(tmp_path / "short").found().write(100).seal()
    code, out = verify(short, text=text)
    assert code == 3
    assert "saw 322 records, and the log has 102" in out


def test_damage_at_the_witness_is_told(author: Author, verify: Verify) -> None:
    text = author.notes[0] + author.notes[1][:-10] + "\n"
    code, out = verify(author, text=text)
    assert code == 0
    assert "a witness saw the first 301 records as they are" in out
    assert "the witness has 1 damaged checkpoints beside 1 whole ones: passed over" in out
    assert json.loads(verify(author, "-o", "json", text=text)[1])["witness"] == {"checkpoints": 1, "damaged": 1}
    code, out = verify(author, text=author.notes[1][:-10] + "\n")
    assert code == 3, "what nobody can read vouches for nothing"
