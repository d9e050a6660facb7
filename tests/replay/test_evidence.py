"""Evidence: a window of the log in one file that is checked without the log, and that nobody changes unseen."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocid_replay.__main__ import main

from ocid.domain.confidential import Confidential
from ocid.domain.note import Key
from ocid.events import codec
from ocid.events.exec import Requested
from ocid.ids import ContainerId, ExecId, PodId, StreamId
from ocid.journal.pending import prepare
from tests.fakes.author import ORIGIN, Author
from tests.fakes.signers import FakeSigner
from tests.journal.helpers import CONTEXT

CHECKER = Path(__file__).parents[2] / "docs" / "check_proof.py"
SECRET = Confidential(PodId("p" * 64), bytes(range(32)), b'["mysqldump", "--password=hunter2"]')
Files = dict[str, bytes]


@pytest.fixture
def author(tmp_path: Path) -> Author:
    """A log of two keys: 301 records signed for by the first, later ones by the second, and two by nobody yet."""
    author = Author(tmp_path / "log").found().write(290).seal()
    requested = Requested(
        exec_id=ExecId("e" * 32), container_id=ContainerId("c" * 64), argv=SECRET.digest, argv_brief="x", timeout_s=0
    )
    author.store.append_batch([prepare(StreamId("exec/e"), 0, [requested], CONTEXT, [SECRET])], 60 * 10**9, 1)
    return author.write(20).rotate(2).write(5).seal().write(2)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(list(map(str, words)), guard=lambda work: work())
    return code, *capsys.readouterr()


@pytest.fixture
def pack(author: Author, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    def pack_it(*words: object) -> Path:
        author.store.close()
        path = tmp_path / "evidence.tar.gz"
        code, _, err = run(capsys, "evidence", "--log", author.store.directory, "-w", path, *words)
        assert (code, err) == (0, "")
        return path

    return pack_it


def files_of(path: Path) -> Files:
    with tarfile.open(path) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def write(path: Path, files: Files, *, sums: bool = True) -> Path:
    """Write a package of *files*, whose list of digests is right."""
    if sums:
        listed = {name: text for name, text in files.items() if name not in ("SHA256SUMS", "custody.json")}
        lines = "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in listed.items())
        files = {**listed, "SHA256SUMS": lines.encode(), "custody.json": files["custody.json"]}
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return path


def lines_of(files: Files, name: str) -> list[Any]:
    return [json.loads(line) for line in files[name].splitlines()]


def with_lines(files: Files, name: str, lines: list[Any]) -> Files:
    return {**files, name: b"".join(json.dumps(line).encode() + b"\n" for line in lines)}


def test_a_package_is_whole_and_proven(
    pack: Callable[..., Path], author: Author, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack("--from-seq", 250)
    assert path.stat().st_mode & 0o777 == 0o600
    files = files_of(path)
    assert [line["seq"] for line in lines_of(files, "events.jsonl")] == list(range(250, 323))
    assert [line["seq"] for line in lines_of(files, "proofs.jsonl") if line["proof"] is None] == [320, 321, 322]

    old, new = Key(ORIGIN, FakeSigner(1).public), author.key
    witness = tmp_path / "witness"
    witness.write_text(author.notes[0])
    for key in (old, new):
        code, out, _ = run(capsys, "check-evidence", path, "--key", key.text(), "--witness", witness)
        assert (code, out.startswith("OK")) == (0, True)
        assert f"73 records of {ORIGIN}, 70 of them proven" in out
        assert f"signed by {new.text()}" in out
        assert "give --" not in out
        assert "a witness has 1 of its checkpoints" in out
    code, out, _ = run(capsys, "check-evidence", path)
    assert (code, out.count("give --")) == (0, 2)
    found = json.loads(run(capsys, "check-evidence", path, "-o", "json")[1])
    assert (found["records"], found["proven"], found["trusted"], found["exit_code"]) == (73, 70, False, 0)


def test_it_is_checked_without_ocid(pack: Callable[..., Path], author: Author, tmp_path: Path) -> None:
    path = pack("--from-seq", 299, "--to-seq", 302)
    out = tmp_path / "out"
    with tarfile.open(path) as tar:
        tar.extractall(out, filter="data")

    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(files_of(path)) - 2)
    for line in (out / "proofs.jsonl").read_text().splitlines():
        (tmp_path / "proof.json").write_text(line)
        words = [sys.executable, "-I", "-S", str(CHECKER), str(tmp_path / "proof.json"), author.key.text()]
        assert subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_who_collected_it_is_said(pack: Callable[..., Path], author: Author) -> None:
    files = files_of(pack("--type", "node.*", "--to-seq", 50))
    (entry,) = json.loads(files["custody.json"])["entries"]
    assert entry["sha256sums"] == hashlib.sha256(files["SHA256SUMS"]).hexdigest()
    assert (entry["action"], entry["by"]["uid"], entry["contents"]["records"]) == ("collected", 0, 49)
    assert "SHA256SUMS" not in files["SHA256SUMS"].decode()
    host = json.loads(files["host.json"])
    assert host["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert json.loads(files["verify.json"])["seals"]["checkpoints"] == 2


def test_confidential_documents_are_packed_where_they_are_asked_for(
    pack: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack("--type", "exec.*")
    assert b"hunter2" not in b"".join(files_of(path).values())
    path.unlink()
    path = pack("--type", "exec.*", "--confidential")
    name = SECRET.digest.removeprefix("sha256:")
    assert files_of(path)[f"confidential/{name}"] == SECRET.salt + SECRET.text
    assert run(capsys, "check-evidence", path)[0] == 0


def test_documents_that_are_cited_are_packed(pack: Callable[..., Path], author: Author) -> None:
    files = files_of(pack("--type", "log.sealed"))
    documents = {text for name, text in files.items() if name.startswith("documents/")}
    assert documents == {each.encode() for each in author.notes}


# --- what is not packed ----------------------------------------------------------------------------------------------


def test_nothing_is_packed_of_a_log_that_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = Author(tmp_path / "log").write(3)
    bare.store.close()
    code, _, err = run(capsys, "evidence", "--log", tmp_path / "log", "-w", tmp_path / "x")
    assert (code, "nothing was packed" in err) == (6, True)
    signed = Author(tmp_path / "signed").found().write(3).seal()
    signed.store.close()
    other = Key(ORIGIN, FakeSigner(9).public).text()
    code, _, err = run(capsys, "evidence", "--log", tmp_path / "signed", "-w", tmp_path / "x", "--key", other)
    assert (code, "nothing was packed" in err) == (3, True)
    code, _, err = run(capsys, "evidence", "--log", tmp_path / "signed", "-w", tmp_path / "x", "--type", "pod.*")
    assert (code, "not found" in err) == (1, True)
    assert not list(tmp_path.glob("*x*"))


def test_it_goes_neither_over_a_file_nor_into_the_log(
    author: Author, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    author.store.close()
    directory = author.store.directory
    (tmp_path / "there").write_text("x")
    code, _, err = run(capsys, "evidence", "--log", directory, "-w", tmp_path / "there")
    assert (code, "is there already" in err) == (1, True)
    code, _, err = run(capsys, "evidence", "--log", directory, "-w", directory / "data.mdb.tar.gz")
    assert (code, "in the log's own directory" in err) == (1, True)


# --- what is found ---------------------------------------------------------------------------------------------------


def changed_event(files: Files) -> Files:
    events = lines_of(files, "events.jsonl")
    events[3]["event"]["pid"] = 4712
    events[3]["who"] = 9
    return with_lines(files, "events.jsonl", events)


def changed_record(files: Files) -> Files:
    """Another record with a hash that is right, and the event that it says."""
    proofs, events = lines_of(files, "proofs.jsonl"), lines_of(files, "events.jsonl")
    record = base64.b64decode(proofs[3]["record"])
    header = list(codec.header_of(record).__class__.__struct_fields__)
    values = [getattr(codec.header_of(record), name) for name in header][:-1]
    values[header.index("who")] = 9
    payload = codec.payload_of(codec.decode(record).event)
    proofs[3]["record"] = base64.b64encode(codec.seal(tuple(values), payload)[0]).decode()
    events[3]["who"] = 9
    return with_lines(with_lines(files, "proofs.jsonl", proofs), "events.jsonl", events)


def no_proof(files: Files) -> Files:
    return with_lines(files, "proofs.jsonl", lines_of(files, "proofs.jsonl")[:-1])


def other_seq(files: Files) -> Files:
    proofs = lines_of(files, "proofs.jsonl")
    proofs[3], proofs[4] = {**proofs[3], "seq": proofs[4]["seq"]}, {**proofs[4], "seq": proofs[3]["seq"]}
    return with_lines(files, "proofs.jsonl", proofs)


def other_path(files: Files) -> Files:
    proofs = lines_of(files, "proofs.jsonl")
    proofs[3]["proof"][0] = "00" * 32
    return with_lines(files, "proofs.jsonl", proofs)


def other_root(files: Files) -> Files:
    return {name: text.replace(b"\\n319\\n", b"\\n318\\n") for name, text in files.items()}


def forged_before(files: Files) -> Files:
    checkpoints = lines_of(files, "checkpoints.jsonl")
    checkpoints[0]["consistency"] = checkpoints[0]["consistency"][:-1]
    return with_lines(files, "checkpoints.jsonl", checkpoints)


def nothing_vouches(files: Files) -> Files:
    keys = json.loads(files["keys.json"])
    keys[1]["note"] = None
    return {**files, "keys.json": json.dumps(keys).encode()}


def replaced(name: str, text: bytes) -> Callable[[Files], Files]:
    return lambda files: {**files, name: text}


def dropped(name: str) -> Callable[[Files], Files]:
    return lambda files: {each: text for each, text in files.items() if each != name}


TAMPERED: dict[str, tuple[Callable[[Files], Files], int, str]] = {
    "an event": (changed_event, 3, "events.jsonl says something else than the record"),
    "a record": (changed_record, 3, "is not among those that were signed for"),
    "a proof is gone": (no_proof, 2, "has no line in proofs.jsonl"),
    "a proof of another record": (other_seq, 3, "is not among those"),
    "another way to the root": (other_path, 3, "is not among those"),
    "another size": (other_root, 3, "is not signed by the key"),
    "a checkpoint before": (forged_before, 3, "is not how that over"),
    "a key that nobody vouches for": (nothing_vouches, 3, "did not sign it, nor vouch"),
    "keys that are none": (replaced("keys.json", b"[1]"), 2, "keys.json is none"),
    "checkpoints that are none": (replaced("checkpoints.jsonl", b'{"note": 1}\n'), 2, "a line of none"),
    "no checkpoints": (replaced("checkpoints.jsonl", b""), 2, "is empty"),
    "a line that is no JSON": (replaced("events.jsonl", b"{\n"), 2, "no JSON"),
    "a line without end": (replaced("events.jsonl", b"x" * (2 << 20)), 2, "too long"),
    "lists in lists": (replaced("proofs.jsonl", b"[" * 9000 + b"\n"), 2, "no JSON"),
    "a record that is none": (replaced("proofs.jsonl", b'{"seq": 250, "proof": 1}\n'), 2, "the proof of record 250"),
    "a document with another digest": (replaced("documents/" + "0" * 64, b"x"), 2, "has another digest"),
    "a file too many": (replaced("../../etc/passwd", b"x"), 2, "does not belong in it"),
    "a file too few": (dropped("host.json"), 2, "'host.json' is missing"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_changed_is_found(
    pack: Callable[..., Path], how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, what = TAMPERED[how]
    files = change(files_of(pack("--from-seq", 250)))
    path = write(tmp_path / "changed", files, sums=how != "a file too few")
    old = Key(ORIGIN, FakeSigner(1).public).text()

    found, out, _ = run(capsys, "check-evidence", path, "--key", old)

    assert (found, what in out) == (code, True), out


def test_a_change_without_new_sums_is_damage(
    pack: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of(pack("--from-seq", 250))
    path = write(tmp_path / "changed", {**files, "host.json": b"{}"}, sums=False)
    code, out, _ = run(capsys, "check-evidence", path)
    assert (code, "'host.json' is not what SHA256SUMS says" in out) == (2, True)
    path = write(tmp_path / "custody", {**files, "custody.json": b'{"entries": [1, 2]}'}, sums=False)
    assert run(capsys, "check-evidence", path)[0] == 0, "whoever hands it on adds an entry"


def test_what_is_no_package(pack: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pack("--from-seq", 250).read_bytes()
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w:gz") as tar:
        member = tarfile.TarInfo("host.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    long = io.BytesIO()
    with tarfile.open(fileobj=long, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 4096}) as tar:
        tar.addfile(tarfile.TarInfo("host.json"))
    for content in (
        long.getvalue(),
        b"",
        b"nonsense",
        gzip.compress(b"nonsense" * 999),
        whole[: len(whole) // 2],
        link.getvalue(),
    ):
        (tmp_path / "x").write_bytes(content)
        code, out, err = run(capsys, "check-evidence", tmp_path / "x")
        assert (code, out.startswith("DAMAGED"), err) == (2, True, "")
    code, _, err = run(capsys, "check-evidence", tmp_path / "absent")
    assert (code, "cannot be read" in err) == (1, True)


def test_another_key_and_another_witness(
    pack: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack("--from-seq", 250)
    other = Key(ORIGIN, FakeSigner(9).public)
    code, out, _ = run(capsys, "check-evidence", path, "--key", other.text())
    assert (code, "nor vouch for one that did" in out) == (3, True)
    forged = Author(tmp_path / "forged").found().write(3, first=7).write(287).seal()
    foreign = Author(tmp_path / "foreign", origin="ocid/other/0123456789ab").found().write(3).seal()
    for notes, said in ((forged.notes, "that the witness saw"), (foreign.notes, "saw none"), ([], "saw none")):
        (tmp_path / "witness").write_text("".join(notes))
        code, out, _ = run(capsys, "check-evidence", path, "--witness", tmp_path / "witness")
        assert (code, said in out) == (3, True), out
