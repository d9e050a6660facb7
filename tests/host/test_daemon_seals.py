"""A daemon signs for its log, and what it signed for can be shown: after kill -9, a rotated key, and a lost one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ocid.adapters import keys
from ocid.events.log import LOG, KeyReplaced, KeyRotated, Sealed
from ocid.journal.looking import look
from ocid.journal.seals import Seals, check_seals
from tests.host import daemon as host
from tests.host.daemon import Daemon, Stage
from tests.host.kubelet import wait_for
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks
TREE = Path(__file__).parents[2]
REPLAY = "import sys; from tests.replay import conftest; from ocid_replay.__main__ import main; sys.exit(main())"
SOON = "import ocid.actors.sealing as s; s.PERIOD_S = 0.2"


def log_of(one: Daemon) -> Path:
    return one.root / "log"


def events(one: Daemon) -> list[object]:
    with look(log_of(one)) as reader:
        return [each.event for each in reader.read_stream(LOG)]


def seals(one: Daemon) -> Seals:
    with look(log_of(one)) as reader:
        return check_seals(reader)


def replay(one: Daemon, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-c", REPLAY, *words, "--log", str(log_of(one))]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_life_signs_at_its_start_and_its_end(stage: Stage) -> None:
    with stage.daemon() as one:
        key = seals(one).key
        assert key.startswith("ocid/")
        one.stop()
        sealed = [each for each in events(one) if isinstance(each, Sealed)]
        assert [each.occasion for each in sealed] == ["start", "stop"]
        assert seals(one).unsigned == 1, "the last checkpoint itself"
        code, said = replay(one, "verify", "--key", key)
        assert (code, "2 checkpoints of ocid/" in said) == (0, True), said
        code, said = replay(one, "prove", "1")
        assert (code, json.loads(said)["seq"]) == (0, 1)
        one.start()


def test_a_life_that_was_killed_is_signed_for_by_the_next(stage: Stage) -> None:
    with stage.daemon() as one:
        key = seals(one).key
        one.kill()
        one.start()
        found = seals(one)
        assert (found.faults, found.key) == ([], key)
        assert [each.occasion for each in events(one) if isinstance(each, Sealed)] == ["start", "start"]


def test_a_rotated_key_and_a_lost_one(stage: Stage) -> None:
    with stage.daemon(prelude=SOON) as one:
        first = seals(one).key
        keys.make_successor(one.root / "keys")
        wait_for(lambda: any(isinstance(each, KeyRotated) for each in events(one)), "the new key signs")
        wait_for(lambda: not (one.root / "keys" / keys.NEXT).exists(), "the files follow")
        one.stop()
        second = seals(one).key
        assert second != first
        for key in (first, second):
            code, said = replay(one, "verify", "--key", key)
            assert code == 0, said
        (one.root / "keys" / keys.CURRENT).unlink()
        one.start()
        one.stop()
        assert any(isinstance(each, KeyReplaced) for each in events(one))
        code, said = replay(one, "verify", "--key", second)
        assert (code, "nothing vouches for the key" in said) == (3, True), said
        assert replay(one, "verify")[0] == 0
        one.start()
