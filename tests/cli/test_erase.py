"""``ocid erase``: what it refuses at once, what it asks of the daemon, and what it says came of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ocid.adapters.erasures import ErasureFiles, wish_erasure
from ocid.cli import erase
from ocid.cli.client import Client
from ocid.cli.run import main
from ocid.config import Loaded
from ocid.domain.confidential import Confidential
from ocid.events import pod
from ocid.ids import PodId
from ocid.journal.looking import look
from ocid.journal.verify import verify
from tests.fakes.lives import JOB, WEB, Life, write_begin, write_job, write_web
from tests.journal.helpers import python

Run = Callable[..., tuple[int, str, str]]
SALT = bytes(32)
GRANT = """
import pathlib, sys
from ocid.domain.confidential import Erasure
from ocid.events.log import Erased
from tests.fakes.lives import Life
life = Life(pathlib.Path(sys.argv[1]))
life.write("log/self", Erased(pod_id=sys.argv[2], entries=1, reason="r"), documents=(Erasure(sys.argv[2]),))
life.store.close()
"""  # by another process, as LMDB wants it
TEXT = Confidential(WEB, SALT, b'["sh","-c","visible"]')


class FileDeps:
    """Puts wishes into files, as the real one does."""

    def serve(self, loaded: Loaded) -> int:
        raise AssertionError("nothing is served here")

    def make_successor(self, loaded: Loaded) -> None:
        raise AssertionError("no key is made here")

    def wish_erasure(self, loaded: Loaded, pod_id: PodId, reason: str) -> Path:
        return wish_erasure(Path(loaded.config.root), pod_id, reason)

    def connect(self, loaded: Loaded) -> AbstractAsyncContextManager[Client]:
        raise AssertionError("no command here needs a socket")


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """A log with a pod that is gone, one that lives, and confidential documents of both."""
    life = Life(tmp_path / "root" / "log")
    write_begin(life)
    write_web(life)
    write_job(life)
    life.write(f"pod/{PodId('ac' * 32)}", pod.Prepared(), documents=(TEXT, Confidential(JOB, SALT, b"living")))
    return life


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "ocid.toml").write_text("")
    monkeypatch.setattr(erase, "WAIT_S", 0.5)
    life.store.close()

    def run_it(*arguments: str) -> tuple[int, str, str]:
        command = ["erase", *arguments, "--config", str(tmp_path / "ocid.toml"), "--root", str(tmp_path / "root")]
        return main(FileDeps(), command), *capsys.readouterr()

    return run_it


@pytest.mark.parametrize(
    ("pod_id", "reason", "said"),
    [
        (JOB, "x", f"pod '{JOB}' is still on it, not removed from this node"),
        ("f" * 64, "x", "pod with confidential documents in the log"),
        ("a", "x", "is the beginning of several ids"),
        ("WEB", "x", "wanted a pod's id, or the beginning of one, is 'WEB'"),
        (WEB, "  ", "wanted 1 to 256 printable characters"),
        (WEB, "x" * 257, "wanted 1 to 256 printable characters"),
    ],
)
def test_what_is_refused_at_once(run: Run, tmp_path: Path, pod_id: str, reason: str, said: str) -> None:
    code, out, err = run("--pod", pod_id, "--reason", reason)

    assert (code, out) == (1, "")
    assert said in err
    assert ErasureFiles(tmp_path / "root").pending() == []


def test_without_a_daemon_the_wish_stays(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--pod", WEB[:9], "--reason", "a  request")

    assert code == 0
    assert out == "no daemon has done it yet: the next one that starts with this root will\n"
    (wish,) = ErasureFiles(tmp_path / "root").pending()
    assert (wish.pod_id, wish.reason) == (WEB, "a request")


@pytest.mark.parametrize("grants", [True, False])
def test_a_daemon_grants_or_refuses(run: Run, tmp_path: Path, grants: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def daemon() -> None:
        files = ErasureFiles(tmp_path / "root")
        until = time.monotonic() + 20
        while not files.pending() and time.monotonic() < until:
            time.sleep(0.01)
        if grants:
            assert python("-c", GRANT, tmp_path / "root" / "log", WEB).wait(timeout=30) == 0
        files.settle(WEB)

    monkeypatch.setattr(erase, "WAIT_S", 30.0)
    thread = threading.Thread(target=daemon)
    thread.start()
    code, out, err = run("--pod", WEB, "--reason", "r", "-o", "json")
    thread.join()

    if not grants:
        assert (code, out) == (1, "")
        assert "the daemon did not erase anything" in err
        return
    answer = json.loads(out)
    assert (code, answer["erased"], answer["entries"]) == (0, True, 1)
    with look(tmp_path / "root" / "log") as reader:
        assert verify(reader).fault is None
        assert reader.read(answer["seq"])[0].type == "log.erased"
