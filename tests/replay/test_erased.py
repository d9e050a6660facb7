"""A log some of whose documents were erased: every command goes on as before, and says what is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ocid_replay.__main__ import main

from ocid.domain.confidential import Confidential, Erasure
from ocid.errors import Erased
from ocid.events import log
from ocid.journal.looking import look
from tests.fakes.declared import exec_requested
from tests.fakes.lives import APP, PROBE, WEB, Life, write_begin, write_web

CANARY = b"c4nary"


def here(work: Callable[[], int]) -> int:
    """Run a command in this process, whose output is caught."""
    return work()


ARGV = Confidential(WEB, bytes(range(32)), b'["sh","-c","c4nary"]')


@pytest.fixture(params=[False, True], ids=["kept", "erased"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A log with a confidential command line, erased or not."""
    life = Life(tmp_path / "log")
    write_begin(life)
    write_web(life)
    requested = exec_requested(PROBE, container_id=APP, argv=ARGV.digest, argv_brief="sh -c …")
    life.write("exec/e2", requested, documents=(ARGV,))
    if request.param:
        erased = log.Erased(pod_id=WEB, entries=1, reason="request 1234", login_uid=1004)
        life.write("log/self", erased, documents=(Erasure(WEB),))
    life.store.close()
    return tmp_path / "log"


@pytest.mark.parametrize(
    "words",
    [
        ("timeline",), ("timeline", "-o", "json"), ("timeline", "--type", "log.*"), ("state",), ("state", "-o", "json"),
        ("explain", WEB), ("explain", APP, "-o", "json"), ("export",), ("export", "--format", "cloudevents"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_shows_a_confidential_document_unasked(
    directory: Path, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--log", str(directory)], guard=here) == 0
    said = capfd.readouterr()
    assert said.out
    assert "c4nary" not in said.out + said.err
    assert CANARY not in (directory / "data.mdb").read_bytes()


def test_verify_says_the_same(
    directory: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--log", str(directory), "-o", "json"], guard=here) == 6, "nobody signed for it"
    answer = json.loads(capfd.readouterr().out)
    erased = "erased" in request.node.callspec.id
    assert answer["documents"] == (0 if erased else 1)


def test_reading_it_says_that_it_was_erased_and_by_which_record(
    directory: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    with look(directory) as reader:
        if "kept" in request.node.callspec.id:
            assert reader.document(ARGV.digest) == ARGV.text
            return
        with pytest.raises(Erased) as caught:
            reader.document(ARGV.digest)
    main(["timeline", "--type", "log.erased", "--log", str(directory), "-o", "jsonl"], guard=here)
    record = json.loads(capfd.readouterr().out)
    assert record["seq"] == caught.value.seq
    assert record["words"] == "1 documents of pod aaaaaaaaaaaa erased, by login uid 1004: request 1234"
