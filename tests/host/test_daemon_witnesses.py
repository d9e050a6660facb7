"""A daemon sends its checkpoints away: after each start, kill -9 included, and as it stops, whoever hangs meanwhile."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host import daemon as host
from tests.host.daemon import Daemon, Stage
from tests.host.kubelet import wait_for
from tests.host.nodes import SLOW
from tests.host.test_daemon_seals import TREE, replay

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks
TOKEN = "c4naryT0kenOfTheWitness"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def receiver(kept: Path) -> Iterator[int]:
    """Run the receiver of docs/proofs.md."""
    text = (TREE / "docs" / "proofs.md").read_text()
    block = re.search(r"(?m)^    import http\.server\n(?:    .*\n)+", text)
    assert block is not None
    port = free_port()
    script = textwrap.dedent(block[0]).replace("/var/lib/witness/checkpoints", str(kept)).replace("8080", str(port))
    assert script.count(str(port)) == 1
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: connects(port), "the receiver listens")
            yield port
        finally:
            process.kill()


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def configure(one: Daemon, *places: str) -> None:
    drop_in = one.directory / "ocid.toml.d" / "push.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("\n".join(f"[[checkpoints.push]]\n{place}" for place in places))


def notes(path: Path) -> int:
    return path.read_text().count("— ") if path.exists() else 0


def test_witnesses_know_every_life_and_nothing_waits_for_them(stage: Stage, tmp_path: Path) -> None:
    by_file, by_http, token = tmp_path / "file", tmp_path / "http", tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with receiver(by_http) as port, socket.create_server(("127.0.0.1", 0)) as hangs, stage.daemon(start=False) as one:
        configure(
            one,
            f"kind = 'file'\npath = '{by_file}'",
            f"kind = 'http'\nurl = 'http://127.0.0.1:{port}/'\ntoken_file = '{token}'",
            f"kind = 'otlp'\nname = 'hangs'\nurl = 'http://127.0.0.1:{hangs.getsockname()[1]}'\ntoken_file = '{token}'",
            f"kind = 'syslog'\naddress = 'tcp://127.0.0.1:{free_port()}'",
        )
        one.start()
        wait_for(lambda: notes(by_file) == notes(by_http) == 1, "the checkpoint of the start is kept")
        one.kill()
        one.start()
        wait_for(lambda: notes(by_file) == notes(by_http) == 2, "that of the next start, too")
        began = time.monotonic()
        assert one.stop() == 0, one.said()
        assert time.monotonic() - began < 10 * SLOW
        assert notes(by_file) == notes(by_http) == 3
        for kept in (by_file, by_http):
            code, said = replay(one, "verify", "--witness", str(kept))
            assert code == 0, said
            assert "a witness saw the first" in said
        assert "witness hangs" in one.said()
        assert TOKEN not in one.said()
        for path in one.root.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
        one.start()
