"""What is found through the indexes is what reading every record finds; and the rest is really passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.events import exec as execution, image, node
from ocid.events.envelope import Context, Envelope
from ocid.ids import ContainerId, ExecId, ImageId, PullId
from ocid.journal.blocks import BLOCK
from ocid.journal.looking import look, peers
from ocid.journal.reader import Reader
from ocid.projections.finding import Finder
from ocid.projections.selection import Selection, Selector
from tests.fakes import lives
from tests.fakes.declared import exec_requested, session_requested
from tests.fakes.lives import APP, BEGAN_NS, CRICTL, HOG, IMAGE, JOB, KUBELET, REFERENCE, WEB, Life, S

NOBODYS = ContainerId("c9" * 32)  # what the log does not say where it belongs
OTHER = ImageId("sha256:" + "1f" * 32)


class CountingReader(Reader):
    """Counts the records that it hands out."""

    handed = 0

    def at(self, seqs):  # type: ignore[no-untyped-def]
        found = super().at(seqs)
        self.handed += len(found)
        return found

    def read(self, from_seq, limit=4096):  # type: ignore[no-untyped-def]
        found = super().read(from_seq, limit)
        self.handed += len(found)
        return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with five blocks: two pods' lives, far apart, a second pull, and much that is alike between them."""
    life = Life(tmp_path_factory.mktemp("found") / "log")
    lives.write_begin(life)
    lives.write_web(life)
    _fill(life, 2 * BLOCK, KUBELET, (APP, NOBODYS))
    life.now_ns -= 100 * S  # somebody set the clock back
    life.write("session/s1", session_requested("s1", pod_id=WEB, container_id=APP), context=CRICTL)
    life.write("session/s2", session_requested("s2", pod_id=WEB, container_id="", kind="portforward"))
    second = PullId("f2" * 16)
    life.write(f"pull/{second}", image.PullRequested(pull_id=second, reference="other:1", with_credentials=False))
    life.write(
        f"pull/{second}",
        image.PullResolved(endpoint="https://r", manifest=IMAGE, index=None, image_id=OTHER, layers=1, total_bytes=1),
    )
    life.write("catalog/images", image.ImageNamed(image_id=OTHER, name=REFERENCE), context=CRICTL)
    for rpc, subject, named in (
        ("StopContainer", f"container/{APP}", ""),
        ("RunPodSandbox", "", "prod/job"),
        ("CreateContainer", f"pod/{WEB}", "app"),
        ("RemoveImage", "", REFERENCE),
        ("PullImage", "", "other:1"),
        ("RemoveContainer", f"container/{NOBODYS}", ""),
    ):
        call = node.UnusualCall(rpc=rpc, subject=subject, named=named, reason="x")
        life.write("node/self", call, context=CRICTL)
    lives.write_job(life)
    _fill(life, 2 * BLOCK, Context(), (APP, HOG))
    life.write("catalog/images", image.ImageRemoved(image_id=IMAGE), context=Context())
    life.store.close()
    return life.store.directory


def _fill(life: Life, count: int, context: Context, containers: tuple[ContainerId, ContainerId]) -> None:
    for _ in range(count // 2):
        number = len(life.envelopes)
        life.write(
            f"exec/{number:032x}",
            exec_requested(ExecId(f"{number:032x}"), container_id=containers[number % 3 > 0]),
            execution.Finished(exit_code=0, timed_out=False, took_ms=1, stdout_bytes=0, stderr_bytes=0),
            context=context,
        )
        life.now_ns -= S // 2


@pytest.fixture
def reader(directory: Path) -> Iterator[CountingReader]:
    with CountingReader(directory) as reader:
        yield reader


class Records(list[Envelope]):
    """All of a log, without a long name."""

    def __repr__(self) -> str:
        return f"{len(self)} records"


@pytest.fixture(scope="module")
def log(directory: Path) -> Records:
    with look(directory) as reader:
        return Records(reader.read(1))


def found(reader: Reader, selection: Selection) -> list[Envelope]:
    return list(Finder(reader, selection, peers(reader)).history())


_TYPES = ["*", "pod.*", "exec.?equested", "image.*", "[", "", "container.exited", "node.peer_seen", "no.such"]
_selections = st.builds(
    Selection,
    pod=st.sampled_from(["", "", "a", "aa", "ab", "web", "prod/job", "zz"]),
    container=st.sampled_from(["", "", "c", "c1", "app", "hog", "zz"]),
    image=st.sampled_from(["", "", "", REFERENCE, "other:1", IMAGE, "1", "sha256:1f", "zz"]),
    stream=st.sampled_from(["", "", "pod", "node", "exec/", "catalog/images", "*/c*", "["]),
    types=st.lists(st.sampled_from(_TYPES), max_size=2).map(tuple),
    since_ns=st.sampled_from([0, 0, BEGAN_NS, BEGAN_NS + 10 * S, BEGAN_NS + 200 * S, BEGAN_NS + 10**6 * S]),
    until_ns=st.sampled_from([0, 0, BEGAN_NS, BEGAN_NS + 20 * S, BEGAN_NS + 300 * S]),
    from_seq=st.one_of(st.just(1), st.integers(1, 1200)),
    to_seq=st.one_of(st.just(0), st.integers(0, 1200)),
    who=st.sampled_from(["", "", "0", "812", "900", "1", "kubelet", "/usr/bin/crictl", "uid:0", "login:1004", "uid:"]),
)


@given(_selections)
def test_the_indexes_find_what_reading_everything_finds(log: Records, directory: Path, selection: Selection) -> None:
    known = {each.seq: each.event for each in log if isinstance(each.event, node.PeerSeen)}
    selector = Selector(selection, known.get)
    wanted = list(selector.select(each for each in log if each.seq >= selector.first_seq))

    with look(directory) as reader:
        assert [each.seq for each in found(reader, selection)] == [each.seq for each in wanted]


@pytest.mark.parametrize(
    ("selection", "at_most"),
    [
        (Selection(pod="prod/job"), 60 + 2 * (2 * BLOCK)),  # with the commands in its container
        (Selection(container=APP), 600 + 2 * BLOCK),  # with the block of an unusual call, and the one not complete
        (Selection(image=REFERENCE), 60 + 2 * BLOCK),
        (Selection(types=("image.removed",)), 2 * BLOCK),
        (Selection(who="crictl", types=("container.*",)), 3 * BLOCK),
        (Selection(stream="catalog/images"), 10),
        (Selection(until_ns=BEGAN_NS + 2 * S), 2 * BLOCK),
        (Selection(from_seq=1030, to_seq=1031), 2),
    ],
    ids=lambda value: "" if isinstance(value, int) else msgspec.json.encode(value).decode()[:60],
)
def test_the_rest_is_not_read(reader: CountingReader, selection: Selection, at_most: int) -> None:
    assert found(reader, selection)
    assert reader.handed <= at_most, f"{reader.handed} of {reader.last_seq()} records were read"


@pytest.mark.parametrize(
    ("selection", "rpcs"),
    [
        (Selection(pod="web"), ["StopContainer", "CreateContainer"]),
        (Selection(pod="prod/job"), ["RunPodSandbox"]),
        (Selection(pod="job"), ["RunPodSandbox"]),
        (Selection(container="app"), ["StopContainer"]),
        (Selection(container="app", pod="job"), []),
        (Selection(image=REFERENCE), ["RemoveImage"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else msgspec.json.encode(value).decode()[:60],
)
def test_unusual_calls_are_found_by_what_they_were_about(
    reader: CountingReader, selection: Selection, rpcs: list[str]
) -> None:
    calls = [each.event for each in found(reader, selection) if isinstance(each.event, node.UnusualCall)]
    assert [each.rpc for each in calls] == rpcs


def test_what_comes_later_is_admitted_on_what_came_before(tmp_path: Path) -> None:
    life = Life(tmp_path / "log")
    lives.write_begin(life)
    lives.write_web(life)
    finder = Finder(life.store, Selection(pod="web"), peers(life.store))
    before = list(finder.history())
    life.write("session/s1", session_requested("s1", pod_id=WEB, container_id=APP))
    life.write("session/s2", session_requested("s2", pod_id=JOB, container_id=""))
    after = [each for each in life.store.read(finder.next_seq) if finder.admits(each)]
    life.store.close()

    assert {each.stream for each in before} >= {f"pod/{WEB}", f"container/{APP}"}
    assert [each.stream for each in after] == ["session/s1"]
