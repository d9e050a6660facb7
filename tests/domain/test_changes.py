"""What counts as a change of a container's image, and how names are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain.changes import ADDED, CHANGED, MOUNT_POINT, NOT_READ, TOUCHED, Entry, classify, inside, visible
from ocid.domain.configs import IdMapping


def entry(**fields: Any) -> Entry:
    return Entry(**{"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "size": 3, "sha256": "a", **fields})


DIRECTORY = entry(kind="directory", size=0, sha256="")


@pytest.mark.parametrize(
    ("now", "before", "change", "what"),
    [
        (entry(), None, ADDED, ()),
        (entry(), entry(), TOUCHED, ()),
        (entry(mtime_ns=5), entry(mtime_ns=4), TOUCHED, ()),
        (entry(mode=0o4755), entry(), CHANGED, ("mode",)),
        (entry(uid=1, gid=1), entry(), CHANGED, ("uid", "gid")),
        (entry(sha256="b"), entry(), CHANGED, ("content",)),
        (entry(sha256="b", size=4), entry(), CHANGED, ("size", "content")),
        (entry(sha256=NOT_READ), entry(sha256=NOT_READ), CHANGED, ("content",)),
        (entry(xattrs={"security.capability": "0x00"}), entry(), CHANGED, ("xattrs",)),
        (entry(kind="symlink", target="/x", size=0, sha256=""), entry(), CHANGED, ("kind", "target")),
        (DIRECTORY, DIRECTORY, "", ()),
        (entry(kind="directory", mode=0o777, size=0, sha256=""), DIRECTORY, CHANGED, ("mode",)),
        (entry(kind="char", device="1:3", size=0), entry(kind="char", device="1:5", size=0), CHANGED, ("device",)),
    ],
)
def test_what_became_of_a_file(now: Entry, before: Entry | None, change: str, what: tuple[str, ...]) -> None:
    assert classify("/x", now, before, frozenset()) == (change, what)


@pytest.mark.parametrize(
    ("path", "now", "change"),
    [
        ("/etc/hosts", entry(size=0), MOUNT_POINT),
        ("/etc", DIRECTORY, MOUNT_POINT),
        ("/etc/hosts", entry(size=1), ADDED),
        ("/etc/hosts", entry(kind="symlink", size=0), ADDED),
        ("/etc/host", entry(size=0), ADDED),
        ("/etc/hosts/x", entry(size=0), ADDED),
    ],
)
def test_a_mount_point_is_empty_and_leads_to_a_mount(path: str, now: Entry, change: str) -> None:
    assert classify(path, now, None, {"/etc/hosts"}) == (change, ())


@pytest.mark.parametrize(("host_id", "seen"), [(100_000, 0), (100_009, 9), (100_010, 100_010), (99_999, 99_999)])
def test_ids_are_those_that_the_container_sees(host_id: int, seen: int) -> None:
    assert inside(host_id, (IdMapping(container_id=0, host_id=100_000, length=10),)) == seen
    assert inside(host_id, ()) == host_id


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("plain/ä", "plain/ä"),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\udcff", r"\xff"),
        ("a\\nb", r"a\\nb"),
        ("\u202e", r"\u202e"),
    ],
)
def test_names_take_one_line_and_move_no_cursor(name: str, written: str) -> None:
    assert visible(name) == written


@given(st.text(), st.text())
def test_different_names_are_written_differently(one: str, other: str) -> None:
    assert visible(one).isprintable()
    assert (visible(one) == visible(other)) == (one == other)
