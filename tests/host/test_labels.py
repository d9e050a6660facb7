"""SELinux labels on files. Any kernel keeps the attribute; only one with SELinux heeds it."""

# tests look at files

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocid.adapters import labels
from ocid.adapters.hostfiles import HostDirectory
from ocid.errors import InvalidRequest

pytestmark = pytest.mark.host

OURS = "system_u:object_r:container_file_t:s0:c1,c2"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "volume"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_text("x")
    (tmp_path / "outside").write_text("x")
    (top / "link").symlink_to(tmp_path / "outside")
    try:
        labels.set_label(str(top), "unlabeled")
        os.getxattr(top, labels.ATTRIBUTE)
    except OSError as error:
        pytest.skip(f"this kernel or file system keeps no SELinux labels: {error.strerror}")
    return top


def label_of(path: Path) -> str:
    try:
        return os.getxattr(path, labels.ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return ""


async def test_a_tree_is_labelled_but_not_what_its_links_point_to(tree: Path) -> None:
    await HostDirectory().relabel(str(tree), OURS)
    assert {label_of(path) for path in (tree, tree / "d", tree / "d/f", tree / "link")} == {OURS}
    assert label_of(tree.parent / "outside") != OURS
    labels.set_label(str(tree / "d/f"), "changed")
    await HostDirectory().relabel(str(tree), OURS)
    assert label_of(tree / "d/f") == "changed", "what was finished is not gone through again"


async def test_a_file_is_labelled(tree: Path) -> None:
    await HostDirectory().relabel(str(tree / "d/f"), OURS)
    assert (label_of(tree / "d/f"), label_of(tree / "d") == OURS) == (OURS, False)


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/var/lib", "/proc/self/root/etc"])
async def test_the_hosts_own_directories_are_not_labelled(path: str) -> None:
    with pytest.raises(InvalidRequest, match="the host's own"):
        await HostDirectory().relabel(path, OURS)


def test_files_that_go_meanwhile_and_systems_without_labels_are_no_failure(tmp_path: Path) -> None:
    labels.set_label(str(tmp_path / "gone"), OURS)
    labels.set_label("/proc/self/status", OURS)
