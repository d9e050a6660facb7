"""What a writable layer changed of the layers below it, on real overlays, and on trees that mean harm."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocid.adapters import changes as adapter, mounts
from ocid.adapters.changes import walk
from ocid.domain.changes import (
    ADDED,
    CHANGED,
    DELETED,
    MOUNT_POINT,
    NOT_READ,
    REPLACED,
    TOUCHED,
    UNREAD,
    Change,
    Layers,
    Lower,
    Walk,
)
from ocid.domain.configs import IdMapping
from ocid.errors import EffectFailed, NotFound
from tests.host.nodes import SLOW

pytestmark = pytest.mark.host
MANY = 1 << 30
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, as a v2 vfs_cap_data


class Overlay:
    """An overlay of two layers: ``base`` and ``top``, and a writable one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("base", "top", "upper", "work", "root"):
            (directory / name).mkdir(mode=0o755)
        self.base, self.top, self.root = directory / "base", directory / "top", directory / "root"

    def mount(self) -> None:
        where = self.directory
        mounts.overlay([self.top, self.base], where / "upper", where / "work", self.root)

    def layers(self, **more: object) -> Layers:
        lowers = (
            Lower(chain_id="sha256:top", number=2, directory=str(self.top)),
            Lower(chain_id="sha256:base", number=1, directory=str(self.base)),
        )
        return Layers(upper=str(self.directory / "upper"), lowers=lowers, **more)  # type: ignore[arg-type]

    def walked(self, bytes_max: int = MANY, **more: object) -> dict[str, Change]:
        return {one.path: one for one in walk(self.layers(**more), bytes_max).changes}


@pytest.fixture
def overlay(run_dir: Path) -> Iterator[Overlay]:
    yield Overlay(run_dir)
    mounts.unmount_below(str(run_dir))
    subprocess.run(["rm", "-rf", "--", run_dir / "upper"], check=True)  # too deep for Python


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_unused_layer_has_no_changes(overlay: Overlay) -> None:
    (overlay.base / "file").write_bytes(b"x")
    overlay.mount()
    (overlay.root / "file").read_bytes()

    assert overlay.walked() == {}


def test_every_way_to_change_a_file_is_told_apart(overlay: Overlay) -> None:
    for name in ("content", "mode", "owner", "touched", "deleted", "kind", "grown"):
        (overlay.base / name).write_bytes(b"base")
    (overlay.base / "deep/er").mkdir(parents=True)
    (overlay.base / "deep/er/file").write_bytes(b"deep")
    (overlay.top / "content").write_bytes(b"top!")
    (overlay.top / "link").symlink_to("old")
    overlay.mount()
    root = overlay.root
    (root / "content").write_bytes(b"mine")
    (root / "mode").chmod(0o4755)
    os.chown(root / "owner", 5, 6)
    os.utime(root / "touched")
    (root / "deleted").unlink()
    (root / "kind").unlink()
    (root / "kind").mkdir()
    (root / "grown").write_bytes(b"base and more")
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/\x1b[31mnew")
    (root / "deep/er/file").chmod(0o600)
    (root / "new").write_bytes(b"new")
    os.mkfifo(root / "fifo")
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    found = overlay.walked()

    assert {path: (one.change, one.what, one.layer_number) for path, one in found.items()} == {
        "/content": (CHANGED, ("content",), 2),
        "/mode": (CHANGED, ("mode",), 1),
        "/owner": (CHANGED, ("uid", "gid"), 1),
        "/touched": (TOUCHED, (), 1),
        "/deleted": (DELETED, (), 1),
        "/kind": (REPLACED, (), 1),
        "/grown": (CHANGED, ("size", "content"), 1),
        "/link": (CHANGED, ("target",), 2),
        "/deep/er/file": (CHANGED, ("mode",), 1),
        "/new": (ADDED, (), 0),
        "/fifo": (ADDED, (), 0),
        "/disk": (ADDED, (), 0),
    }
    content, link, disk = found["/content"], found["/link"].now, found["/disk"].now
    assert content.now is not None
    assert content.before is not None
    assert (content.now.sha256, content.before.sha256) == (sha256(b"mine"), sha256(b"top!"))
    assert content.layer == "sha256:top"
    assert link is not None
    assert link.target == r"/etc/\x1b[31mnew"
    assert disk is not None
    assert (disk.kind, disk.device) == ("block", "8:1")
    assert list(found) == sorted(found), "by path"


def test_a_directory_that_was_made_anew_hides_the_old_one(overlay: Overlay) -> None:
    (overlay.base / "data").mkdir()
    (overlay.base / "data/old").write_bytes(b"old")
    (overlay.base / "data/same").write_bytes(b"same")
    overlay.mount()
    shutil.rmtree(overlay.root / "data")
    (overlay.root / "data").mkdir()
    (overlay.root / "data/same").write_bytes(b"same")
    found = overlay.walked()

    assert {path: one.change for path, one in found.items()} == {"/data": REPLACED, "/data/same": ADDED}


def test_layers_hide_what_is_below_them(overlay: Overlay) -> None:
    """A whiteout, an opaque directory and a file of a higher layer: what is below them is not in the image."""
    for name in ("gone", "file"):
        (overlay.base / name).write_bytes(b"base")
    for name in ("opaque", "covered"):
        (overlay.base / name).mkdir()
        (overlay.base / name / "inner").write_bytes(b"base")
    os.mknod(overlay.top / "gone", stat.S_IFCHR, 0)
    (overlay.top / "opaque").mkdir()
    os.setxattr(overlay.top / "opaque", "trusted.overlay.opaque", b"y")
    (overlay.top / "covered").write_bytes(b"a file now")
    overlay.mount()
    root = overlay.root
    (root / "gone").write_bytes(b"back")
    (root / "opaque/inner").write_bytes(b"mine")
    (root / "covered").unlink()
    (root / "covered").mkdir()
    (root / "covered/inner").write_bytes(b"mine")
    found = overlay.walked()

    assert {path: one.change for path, one in found.items()} == {
        "/gone": ADDED,
        "/opaque/inner": ADDED,
        "/covered": REPLACED,
        "/covered/inner": ADDED,
    }


def test_extended_attributes_count(overlay: Overlay) -> None:
    for name in ("plain", "armed"):
        (overlay.base / name).write_bytes(b"program")
    os.setxattr(overlay.base / "armed", "user.note", b"kept\n")
    overlay.mount()
    os.setxattr(overlay.root / "plain", "security.capability", CAPABILITY)
    os.setxattr(overlay.root / "plain", "user.words", b"plain text")
    os.utime(overlay.root / "armed")
    found = overlay.walked()

    plain, armed = found["/plain"], found["/armed"]
    assert (plain.change, plain.what) == (CHANGED, ("xattrs",))
    assert plain.now is not None
    assert plain.now.xattrs == {"security.capability": f"0x{CAPABILITY.hex()}", "user.words": "plain text"}
    assert armed.change == TOUCHED
    assert armed.now is not None
    assert armed.now.xattrs == {"user.note": "0x6b6570740a"}


def test_owners_are_those_that_a_user_namespace_sees(overlay: Overlay) -> None:
    (overlay.base / "file").write_bytes(b"base")
    upper = overlay.directory / "upper"
    os.chown(upper, 100_000, 200_000)
    (upper / "file").write_bytes(b"base")
    os.chown(upper / "file", 100_000, 200_000)
    (upper / "new").write_bytes(b"")
    os.chown(upper / "new", 100_033, 7)
    uids = (IdMapping(container_id=0, host_id=100_000, length=65_536),)
    gids = (IdMapping(container_id=0, host_id=200_000, length=65_536),)
    found = overlay.walked(uids=uids, gids=gids)

    assert {path: one.change for path, one in found.items()} == {"/file": TOUCHED, "/new": ADDED}
    assert found["/new"].now is not None
    assert (found["/new"].now.uid, found["/new"].now.gid) == (33, 7)


def test_empty_mount_points_are_told_as_such(overlay: Overlay) -> None:
    upper = overlay.directory / "upper"
    (upper / "etc").mkdir()
    (upper / "etc/hosts").write_bytes(b"")
    (upper / "etc/resolv.conf").write_bytes(b"written")
    (upper / "proc").mkdir()
    (upper / "other").mkdir()
    found = overlay.walked(mount_points=frozenset({"/etc/hosts", "/etc/resolv.conf", "/proc"}))

    assert {path: one.change for path, one in found.items()} == {
        "/etc": MOUNT_POINT,
        "/etc/hosts": MOUNT_POINT,
        "/etc/resolv.conf": ADDED,
        "/proc": MOUNT_POINT,
        "/other": ADDED,
    }


def test_what_goes_beyond_the_limit_is_listed_without_a_hash(overlay: Overlay) -> None:
    upper = overlay.directory / "upper"
    for name in ("a", "b", "c"):
        (upper / name).write_bytes(bytes(1000))
    walked = walk(overlay.layers(), 1500)

    assert [one.now.sha256 for one in walked.changes if one.now] == [sha256(bytes(1000)), NOT_READ, NOT_READ]
    assert (walked.bytes_read, walked.not_hashed, walked.complete) == (1000, 2, True)


def test_equal_sizes_without_hashes_are_no_proof_of_equality(overlay: Overlay) -> None:
    (overlay.base / "file").write_bytes(bytes(1000))
    (overlay.directory / "upper/file").write_bytes(bytes(1000))

    assert overlay.walked(100)["/file"].what == ("content",)


def test_a_layer_that_is_not_there_is_an_error(overlay: Overlay) -> None:
    shutil.rmtree(overlay.base)
    with pytest.raises(NotFound, match="sha256:base"):
        overlay.walked()
    shutil.rmtree(overlay.directory / "upper")
    with pytest.raises(NotFound, match="writable layer"):
        overlay.walked()


# --- trees that mean harm ---------------------------------------------------------------------------------------------


def test_a_path_that_no_daemon_wrote_is_an_error() -> None:
    with pytest.raises(EffectFailed, match="null"):
        walk(Layers(upper="/a\0b", lowers=()), MANY)


def test_names_are_printed_so_that_they_do_nothing(overlay: Overlay) -> None:
    upper = os.fsencode(overlay.directory / "upper")
    for name in (b"two\nlines", b"\x1b]0;title\x07", b"no\xffutf8", b"back\\slash", "\u202egnp.exe".encode()):
        with open(os.path.join(upper, name), "wb"):
            pass
    found = walk(overlay.layers(), MANY).changes

    exact = {one.path: one.path_hex for one in found}
    assert set(exact) == {"/two\nlines", "/\x1b]0;title\x07", r"/no\xffutf8", "/back\\slash", "/\u202egnp.exe"}
    assert bytes.fromhex(exact[r"/no\xffutf8"]) == b"/no\xffutf8"


def test_links_are_never_followed(overlay: Overlay, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"the host's")
    upper = overlay.directory / "upper"
    (upper / "directory").symlink_to(secret)
    (upper / "file").symlink_to(secret / "key")
    (overlay.base / "etc").symlink_to(secret)
    (upper / "etc").mkdir()
    (upper / "etc/key").write_bytes(b"mine")
    found = overlay.walked()

    assert set(found) == {"/directory", "/file", "/etc", "/etc/key"}
    assert {one.now.kind for one in found.values() if one.now} == {"symlink", "directory", "file"}
    assert found["/etc"].change == CHANGED
    assert found["/etc/key"].change == ADDED, "the layer's link does not lead to the host's file"
    assert not [one for one in found.values() if one.now and one.now.sha256 == sha256(b"the host's")]


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(overlay: Overlay, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "stolen").write_bytes(b"the host's")
    upper = overlay.directory / "upper"
    (upper / "swap").mkdir()
    (upper / "link").symlink_to(secret)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            os.rename(upper / "swap", upper / "aside")
            os.rename(upper / "link", upper / "swap")
            os.rename(upper / "swap", upper / "link")
            os.rename(upper / "aside", upper / "swap")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen: set[str] = set()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            seen.update(overlay.walked())
    finally:
        over.set()
        thread.join()

    assert seen <= {"/swap", "/link", "/aside"}


def test_devices_and_pipes_are_not_opened(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a FIFO would block for ever, opening a device may do anything."""
    upper = overlay.directory / "upper"
    os.mkfifo(upper / "fifo")
    os.mknod(upper / "watchdog", stat.S_IFCHR | 0o600, os.makedev(10, 130))
    opened: list[str] = []

    def noting(path: str, *arguments: object, **more: object) -> object:
        opened.append(path)
        return open(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(adapter, "open", noting, raising=False)

    assert {one.now.kind for one in overlay.walked().values() if one.now} == {"fifo", "char"}
    assert opened == []


def test_what_is_mounted_into_the_writable_layer_is_not_taken_for_it(overlay: Overlay, tmp_path: Path) -> None:
    (tmp_path / "strange").write_bytes(b"the host's")
    upper = overlay.directory / "upper"
    (upper / "directory").mkdir()
    (upper / "file").write_bytes(b"")
    mounts.bind(str(tmp_path), str(upper / "directory"))
    mounts.bind(str(tmp_path / "strange"), str(upper / "file"))
    found = walk(overlay.layers(), MANY)

    assert [(one.path, one.change, one.now) for one in found.changes] == [
        ("/directory", UNREAD, None),
        ("/file", UNREAD, None),
    ]
    assert not found.complete


def _nest(directory: Path, depth: int) -> None:
    """Make directories within one another, deeper than any path reaches."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_deep_trees_are_walked_and_endless_ones_end(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_PATH_BYTES", 100)
    monkeypatch.setattr(adapter, "DEPTH_MAX", 300)
    _nest(overlay.directory / "upper", 250)
    found = walk(overlay.layers(), MANY)
    assert found.complete
    assert found.changes[-1].path == "/d" * 250 + "/bottom"

    monkeypatch.setattr(adapter, "DEPTH_MAX", 100)
    found = walk(overlay.layers(), MANY)
    assert not found.complete
    assert [(one.change, one.path.count("/")) for one in found.changes if one.change == UNREAD] == [(UNREAD, 101)]


def test_the_real_limits_hold_for_a_tree_deeper_than_a_path_reaches(overlay: Overlay) -> None:
    _nest(overlay.directory / "upper", adapter.DEPTH_MAX + 500)
    began = time.monotonic()
    found = walk(overlay.layers(), MANY)
    took = time.monotonic() - began

    assert not found.complete
    assert len(found.changes) == adapter.DEPTH_MAX + 2
    assert took < 30


def test_a_hundred_thousand_files_take_seconds_and_more_are_left_out(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = overlay.directory / "upper"
    (upper / "many").mkdir()
    here = os.open(upper / "many", os.O_RDONLY)
    for number in range(100_000):
        os.mknod(str(number), stat.S_IFREG | 0o600, dir_fd=here)
    os.close(here)
    began = time.monotonic()
    whole: Walk = walk(overlay.layers(), MANY)
    took = time.monotonic() - began
    assert (len(whole.changes), whole.complete) == (100_001, True)
    assert took < 40 * SLOW

    monkeypatch.setattr(adapter, "ENTRIES_MAX", 50)
    found = walk(overlay.layers(), MANY)
    assert (len(found.changes), found.complete) == (51, False)
    assert found.changes[-1].change == UNREAD
