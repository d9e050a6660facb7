"""A real daemon whose log may be small: it archives and trims by itself, goes on over a kill, and all is provable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypeVar

import pytest

from ocid.cri.stubs import api_pb2 as pb
from ocid.events.log import LOG, Archived, Trimmed
from ocid.journal import archive
from ocid.journal.looking import look
from ocid.journal.seals import check_seals
from ocid.journal.verify import verify
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Stage
from tests.host.kubelet import Kubelet
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(200 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks
SOON = "from ocid.actors import retaining, sealing; retaining.PERIOD_S = 0.2; sealing.PERIOD_S = 0.5"
COMMANDS = 190
T = TypeVar("T")


def test_the_log_stays_small_while_pods_live(stage: Stage, tmp_path: Path) -> None:
    settings = {"log": {"max_bytes": 450_000}, "audit": {"coalesce_probes": False}}
    with stage.daemon(settings, prelude=SOON) as daemon:
        with daemon.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
            archived = live(daemon, Kubelet(cri, daemon.directory, daemon.cgroup_parent))
        with daemon.log() as reader:
            assert verify(reader).fault is None
            assert not check_seals(reader).faults
            assert reader.records(1, 4096)[0][0] > 1 or reader.thinned()
        directory = Path(daemon.directory)
        assert [path.name for path in (directory / "root" / "archive").iterdir()]
        unpacked(archived, tmp_path)


def live(daemon: Daemon, kubelet: Kubelet) -> list[Archived]:
    """Use a pod until the log was trimmed, over two kills; return what was archived."""
    container_id = kubelet.start(kubelet.run_pod(), "sleep", "1000")
    for number in range(COMMANDS):
        assert kubelet.exec(container_id, "true", "x" * 300, str(number)).exit_code == 0
        if number == COMMANDS // 2:
            again(daemon)
    until = time.monotonic() + 30 * SLOW
    while not (trimmed := told(daemon, Trimmed)):
        assert time.monotonic() < until, "it was not trimmed"
        time.sleep(0.2)
    assert trimmed[-1].through >= 256
    archived = told(daemon, Archived)
    again(daemon)
    assert kubelet.exec(container_id, "echo", "still").stdout == b"still\n"
    kubelet.remove_everything()
    return archived


def told(daemon: Daemon, kind: type[T]) -> list[T]:
    with daemon.log() as reader:
        return [one.event for one in reader.read_stream(LOG) if isinstance(one.event, kind)]


def again(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def unpacked(archived: list[Archived], directory_of_all: Path) -> None:
    """Check every archive as a log."""
    assert archived
    for number, one in enumerate(archived):
        directory = directory_of_all / str(number)
        directory.mkdir()
        archive.unpack(Path(one.file), directory)
        with look(directory) as reader:
            assert verify(reader).fault is None
            assert not check_seals(reader).faults
            assert [seq for seq, _ in reader.records(one.first, 256)] == list(range(one.first, one.first + 256))
