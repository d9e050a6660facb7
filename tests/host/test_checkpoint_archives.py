"""Archives of container checkpoints, good and hostile, through the real, confined worker."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters import restores
from ocid.adapters.checkpoint_archives import CheckpointArchives, delete_in_root, opened
from ocid.adapters.unpack import UnpackLimits
from ocid.domain import checkpoint_archive as rules
from ocid.errors import EffectFailed, Exhausted, InvalidRequest, NotFound, OcidError
from ocid.ids import ChainId, ContainerId, Digest, PodId
from ocid.ports import ContainerOrder
from ocid.ports.archives import ArchiveSource

SPEC = {"mounts": [{"destination": "/data", "type": "bind"}], "process": {"args": ["sh"]}}
GOOD: dict[str, bytes] = {
    "config.dump": json.dumps({"name": "app", "rootfsImageRef": "sha256:1", "rootfsImageName": "reg/app:1"}).encode(),
    "spec.dump": json.dumps(SPEC).encode(),
    "checkpoint/inventory.img": b"inventory",
    "checkpoint/pages-1.img": b"x" * 100_000,
    "stats-dump": b"stats",
    "notes/read.me": b"somebody's own",
}


def packed(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """An archive of *files*, then of *others*, which have no content."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            tar.addfile(entry(name, size=len(content)), io.BytesIO(content))
        for one in others:
            tar.addfile(one)
    return raw.getvalue()


def entry(name: str, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in {"mode": 0o4777, "uid": 1000, "gid": 1000, **fields}.items():
        setattr(made, field, value)
    return made


class Place:
    """A container's directories, and the store of archives."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.archive = directory / "one.tar"
        self.order = ContainerOrder(
            container_id=ContainerId("c" * 64),
            pod_id=PodId("p" * 64),
            handler="",
            bundle=str(directory / "bundle"),
            writable=str(directory / "writable"),
            cgroup="",
            log_path="",
        )
        self.upper, self.restore = directory / "writable/upper", directory / "writable/restore"
        self.layer = directory / "layer"
        for one in (directory / "empty", self.upper, directory / "bundle/rootfs", self.layer):
            one.mkdir(parents=True)
        self.archives = CheckpointArchives(directory / "empty", lambda _: self.layer, UnpackLimits(**limits))

    def put(self, raw: bytes) -> ArchiveSource:
        """Lay down an archive, and return it as it is now."""
        self.archive.write_bytes(raw)
        return ArchiveSource(archive=str(self.archive), digest=Digest("sha256:" + hashlib.sha256(raw).hexdigest()))

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.restore)): path.read_bytes()
            for path in sorted(self.restore.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def nothing_outside(self, directory: Path) -> bool:
        return sorted(os.listdir(directory)) == ["bundle", "empty", "layer", "one.tar", "writable"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_good_archive_is_read_and_unpacked(place: Place, tmp_path: Path) -> None:
    diff = packed(
        {"data/count": b"7", ".wh.name": b"just a name", "data/.wh..wh..opq": b""},
        entry("link", type=b"2", linkname="/etc"),
    )
    raw = packed({**GOOD, "rootfs-diff.tar": diff, "deleted.files": b'["/gone"]'})
    source = place.put(raw)

    digest, facts = await place.archives.read(ArchiveSource(archive=source.archive))
    assert digest == source.digest
    assert (facts.name, facts.image_refs, facts.binds) == ("app", ("sha256:1", "reg/app:1"), ("/data",))
    assert not place.restore.exists()
    assert await place.archives.unpack(place.order, [], source) == facts
    kept = ["checkpoint/inventory.img", "checkpoint/pages-1.img", "config.dump", "deleted.files", "spec.dump"]
    assert list(place.files()) == kept
    status = (place.restore / "checkpoint/pages-1.img").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_size) == (0o600, 0, 100_000)
    assert (place.upper / "data/count").read_bytes() == b"7"
    assert (place.upper / ".wh.name").read_bytes() == b"just a name"
    assert (place.upper / "data/.wh..wh..opq").exists()
    assert (place.upper / "data/count").stat().st_uid == 1000
    assert os.readlink(place.upper / "link") == "/etc"
    assert place.nothing_outside(tmp_path)


async def test_directories_of_changed_files_are_as_in_the_image(place: Place, tmp_path: Path) -> None:
    fill(place.layer, {"tmp/below": b"", "home/u/below": b"", "file": b""})
    (place.layer / "tmp").chmod(0o1777)
    os.chown(place.layer / "home/u", 1000, 1001)
    (place.layer / "home/u").chmod(0o700)
    os.utime(place.layer / "home/u", (5, 6))
    (place.layer / "link").symlink_to(tmp_path)
    diff = packed(dict.fromkeys(["tmp/x", "home/u/y", "file/z", "link/w", "new/v"], b"x"))
    source = place.put(packed({**GOOD, "rootfs-diff.tar": diff}))
    await place.archives.unpack(place.order, [ChainId("base")], source)

    assert stat.S_IMODE((place.upper / "tmp").stat().st_mode) == 0o1777
    status = (place.upper / "home/u").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime) == (1000, 1001, 0o700, 6)
    for name in ("file", "link", "new"):
        status = (place.upper / name).lstat()
        assert (status.st_uid, stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)) == (0, stat.S_IFDIR, 0o755)


async def test_changed_files_that_are_compressed_are_a_layer(place: Place) -> None:
    diff = gzip.compress(packed({"data/.wh.gone": b"", "new": b"x"}))
    await place.archives.unpack(place.order, [], place.put(packed({**GOOD, "rootfs-diff.tar": diff})))

    whiteout = (place.upper / "data/gone").stat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    assert (place.upper / "new").read_bytes() == b"x"


async def test_an_archive_that_is_another_one_by_now_is_refused(place: Place) -> None:
    source = place.put(packed(GOOD))
    place.put(packed({**GOOD, "checkpoint/more.img": b"y"}))

    with pytest.raises(EffectFailed, match=rf"it has digest sha256:\w+, it had {source.digest} when"):
        await place.archives.unpack(place.order, [], source)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: packed({**GOOD, "/etc/x": b""}), "'/etc/x' has an absolute path"),
    "absolute image": (lambda: packed({**GOOD, "/checkpoint/x.img": b""}), "has an absolute path"),
    "climbing": (lambda: packed({**GOOD, "checkpoint/../../x": b""}), r"climbs out with '\.\.'"),
    "link": (lambda: packed(GOOD, entry("checkpoint/parent", type=b"2", linkname="/etc")), "neither a file nor"),
    "linked directory": (
        lambda: packed({}, entry("checkpoint", type=b"2", linkname="/etc")) + packed(GOOD),
        "neither a file nor",
    ),
    "hard link": (lambda: packed(GOOD, entry("spec.dump", type=b"1", linkname="config.dump")), "neither a file nor"),
    "device": (lambda: packed(GOOD, entry("checkpoint/x.img", type=b"3", devmajor=1)), "neither a file nor"),
    "unknown device": (lambda: packed(GOOD, entry("unknown", type=b"4", devmajor=8)), "neither a file nor"),
    "pipe": (lambda: packed(GOOD, entry("checkpoint/x.img", type=b"6")), "neither a file nor"),
    "twice": (lambda: twice("spec.dump"), "'spec.dump' is there twice"),
    "image twice": (lambda: twice("checkpoint/inventory.img"), "is there twice"),
    "directory inside": (lambda: packed(GOOD, entry("checkpoint/d", type=b"5")), "is a directory, wanted a file"),
    "file below": (lambda: packed({**GOOD, "checkpoint/d/x": b""}), "is below a directory of images"),
    "document that is a directory": (lambda: packed(GOOD, entry("status.dump", type=b"5")), "wanted a file"),
    "images that are a file": (lambda: packed({**GOOD, "checkpoint": b""}), "is a file, wanted a directory"),
    "odd name": (lambda: packed({**GOOD, "checkpoint/a b": b""}), "has a name that CRIU gives no image"),
    "huge document": (lambda: packed({**GOOD, "spec.dump": b" " * (1 << 20) + b"{}"}), "the limit is 1048576"),
    "no images": (lambda: packed({name: GOOD[name] for name in ("config.dump", "spec.dump")}), "inventory.img"),
    "no document": (lambda: packed({name: GOOD[name] for name in GOOD if name != "spec.dump"}), "no 'spec.dump'"),
    "empty": (lambda: b"", "no 'config.dump'"),
    "no archive": (lambda: b"#!/bin/sh\n" * 100, "archive"),
    "compressed": (lambda: gzip.compress(packed(GOOD)), "archive"),
    "cut off": (lambda: packed(GOOD)[:-60_000], "is cut off"),
    "cut off early": (lambda: packed(GOOD)[:700], "is cut off"),
    "hidden tail": (lambda: packed(GOOD) + b"tail" * 200, "has data after its end"),
    "sparse": (lambda: packed(GOOD, sparse()), "sparse"),
    "no JSON": (lambda: packed({**GOOD, "config.dump": b"{"}), "'config.dump' cannot be read"),
    "deep JSON": (lambda: packed({**GOOD, "spec.dump": b"[" * 500_000}), "'spec.dump' cannot be read"),
    "wrong JSON": (lambda: packed({**GOOD, "spec.dump": b'{"mounts": 7}'}), "'spec.dump' cannot be read"),
}


def twice(name: str) -> bytes:
    whole = packed(GOOD)
    single = packed({name: b"other"})
    return single[: single.rstrip(b"\0").__len__() // 512 * 512 + 512] + whole


def sparse() -> tarfile.TarInfo:
    made = entry("checkpoint/pages-2.img")
    made.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    return made


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_archive_is_refused_and_writes_nothing_elsewhere(
    place: Place, tmp_path: Path, name: str
) -> None:
    make, words = HOSTILE[name]
    source = place.put(make())

    with pytest.raises(InvalidRequest, match=words) as caught:
        await place.archives.read(source)
    assert caught.value.message.startswith(f"checkpoint archive '{place.archive}': ")
    with pytest.raises(OcidError, match=words):
        await place.archives.unpack(place.order, [], source)
    assert not os.listdir(place.upper)
    assert not os.listdir(tmp_path / "empty")
    assert place.nothing_outside(tmp_path)
    assert not [path for path in place.restore.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]


HOSTILE_DIFFS: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: packed({"/etc/x": b""}), "has an absolute path"),
    "climbing": (lambda: packed({"a/../../x": b""}), "climbs out"),
    "through a link": (
        lambda: (lambda link: link[:512] + packed({"out/x": b""}))(
            packed({}, entry("out", type=b"2", linkname="/etc"))
        ),
        "goes through a symbolic link",
    ),
    "overlay attribute": (lambda: packed({}, steering()), "would steer the overlay mount"),
    "whiteout in disguise": (lambda: packed({}, entry("x", type=b"3")), "a whiteout in disguise"),
    "hard link outside": (lambda: packed({}, entry("x", type=b"1", linkname="../../etc/shadow")), "climbs out"),
    "cut off": (lambda: packed({"x": b"y" * 5000})[:2000], "is cut off"),
    "bomb": (lambda: gzip.compress(packed({"x": bytes(300 << 20)})), "decompression bomb"),
}


def steering() -> tarfile.TarInfo:
    made = entry("x", type=b"5")
    made.pax_headers = {"SCHILY.xattr.trusted.overlay.opaque": "y"}
    return made


@pytest.mark.parametrize("name", HOSTILE_DIFFS)
async def test_hostile_changes_are_refused(place: Place, tmp_path: Path, name: str) -> None:
    make, words = HOSTILE_DIFFS[name]
    with pytest.raises((EffectFailed, Exhausted), match=words):
        await place.archives.unpack(place.order, [], place.put(packed({**GOOD, "rootfs-diff.tar": make()})))
    assert place.nothing_outside(tmp_path)


async def test_too_many_entries(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ENTRIES_MAX", 20)
    images = {f"checkpoint/core-{n}.img": b"" for n in range(10)}
    others = {f"other-{n}": b"" for n in range(10)}
    for files in ({**GOOD, **images, **others}, {**others, **images, **GOOD}):
        source = place.put(packed(files))
        with pytest.raises(Exhausted, match="more than 20 entries"):
            await place.archives.read(source)
        with pytest.raises(Exhausted, match="more than 20 entries"):
            await place.archives.unpack(place.order, [], source)


async def test_too_many_bytes(tmp_path: Path) -> None:
    place = Place(tmp_path, bytes_max=1 << 20)
    source = place.put(packed({**GOOD, "checkpoint/pages-1.img": bytes(2 << 20)}))
    with pytest.raises(Exhausted, match="checkpoint archive"):
        await place.archives.read(source)
    with pytest.raises(Exhausted):
        await place.archives.unpack(place.order, [], source)


# --- what is no file of its own --------------------------------------------------------------------------------------


async def test_what_is_no_regular_file_is_not_waited_for(place: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(place.archive)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dirlink").symlink_to(tmp_path)
    place.put(packed(GOOD))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        for name in ("fifo", "link", "dir", "dirlink/one.tar", "s"):
            with trio.fail_after(5), pytest.raises(InvalidRequest, match="regular file"):
                await place.archives.read(ArchiveSource(archive=str(tmp_path / name)))
    with pytest.raises(InvalidRequest, match="regular file"):
        await place.archives.read(ArchiveSource(archive="/dev/zero"))
    for missing in ("none", "none/one.tar"):
        with pytest.raises(NotFound):
            await place.archives.read(ArchiveSource(archive=str(tmp_path / missing)))


def test_an_archive_is_opened_once(place: Place) -> None:
    source = place.put(b"first")
    with opened(source.archive) as descriptor:
        place.archive.unlink()
        place.archive.write_bytes(b"second")
        assert os.read(descriptor, 100) == b"first"


# --- images ----------------------------------------------------------------------------------------------------------

LAYER = ArchiveSource(layer=ChainId("sha256:" + "1" * 64))


async def test_a_layer_holds_the_same_files(place: Place) -> None:
    fill(place.layer, {**GOOD, "rootfs-diff.tar": packed({"count": b"7"})})

    digest, facts = await place.archives.read(LAYER)
    assert digest is None
    assert facts.name == "app"
    assert await place.archives.unpack(place.order, [], LAYER) == facts
    assert list(place.files()) == ["checkpoint/inventory.img", "checkpoint/pages-1.img", "config.dump", "spec.dump"]
    assert (place.restore / "checkpoint/pages-1.img").read_bytes() == GOOD["checkpoint/pages-1.img"]
    assert (place.upper / "count").read_bytes() == b"7"


@pytest.mark.parametrize("name", ["config.dump", "checkpoint/pages-1.img", "checkpoint", "rootfs-diff.tar"])
async def test_links_in_a_layer_are_not_followed(place: Place, tmp_path: Path, name: str) -> None:
    fill(place.layer, {**GOOD, "rootfs-diff.tar": packed({})})
    (place.layer / name).rename(tmp_path / "stolen")
    (place.layer / name).symlink_to(tmp_path / "stolen")

    with pytest.raises(EffectFailed):
        await place.archives.unpack(place.order, [], LAYER)


async def test_a_layer_of_something_else(place: Place) -> None:
    fill(place.layer, {"bin/sh": b""})
    with pytest.raises(InvalidRequest, match=r"no 'config\.dump', so it is no container checkpoint"):
        await place.archives.read(LAYER)


def fill(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


# --- the monitor's words ---------------------------------------------------------------------------------------------


def test_profiles_are_those_of_the_new_specification(place: Place) -> None:
    plain = ["--work-path", str(place.restore), "--tcp-established", "--file-locks"]
    confined = {
        "process": {"apparmorProfile": "ocid-default", "selinuxLabel": "u:r:t:s0:c1,c2"},
        "linux": {"mountLabel": "u:o:f:s0"},
    }

    def options(spec: dict[str, Any]) -> list[str]:
        kind, images, *rest = restores.monitor_words(place.order, spec)
        assert (kind, images) == ("--restore", str(place.restore / "checkpoint"))
        assert all(word.startswith("--runtime-opt=") for word in rest)
        return [word.partition("=")[2] for word in rest]

    assert options({"process": {"apparmorProfile": ""}}) == plain
    assert options(confined) == [
        *plain,
        *("--lsm-profile", "apparmor:ocid-default", "--lsm-profile", "selinux:u:r:t:s0:c1,c2"),
        *("--lsm-mount-context", "u:o:f:s0"),
    ]


# --- deletions -------------------------------------------------------------------------------------------------------


def test_deletions_stay_in_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    fill(root, {"a/file": b"", "b/c/d": b"", "kept": b"", "real/x": b""})
    fill(outside, {"victim": b"", "tree/x": b""})
    (root / "up").symlink_to("../outside")
    (root / "abs").symlink_to(str(outside))
    (root / "inside").symlink_to("/real")
    (root / "dangling").symlink_to("/no/where")
    names = ("/a/file", "b/c", "/up/victim", "/abs/victim", "/../outside/victim", "/inside/x", "/dangling", "/none/x")

    delete_in_root(str(root), names)
    delete_in_root(str(root), names)
    assert sorted(os.listdir(outside)) == ["tree", "victim"]
    assert sorted(os.listdir(root)) == ["a", "abs", "b", "inside", "kept", "real", "up"]
    assert not os.listdir(root / "a")
    assert not os.listdir(root / "real")
    delete_in_root(str(root), ("/up", "/abs"))  # the links themselves
    assert (outside / "tree/x").exists()


@pytest.mark.parametrize("name", ["", "/", "/a/..", "..", ".", "/a/.", "a\0b"])
def test_deletions_of_what_has_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(EffectFailed, match=r"deleted\.files"):
        delete_in_root(str(tmp_path), (name,))


async def test_deletions_are_read_from_the_checkpoint(place: Place) -> None:
    root = Path(place.order.bundle, "rootfs")
    fill(root, {"gone": b"", "kept": b""})
    await place.archives.unpack(place.order, [], place.put(packed({**GOOD, "deleted.files": b'["/gone"]'})))
    await place.archives.delete_files(place.order)
    assert os.listdir(root) == ["kept"]

    await place.archives.unpack(place.order, [], place.put(packed({**GOOD, "deleted.files": b"[7]"})))
    with pytest.raises(EffectFailed, match=r"'deleted\.files' cannot be read"):
        await place.archives.delete_files(place.order)
    await place.archives.unpack(place.order, [], place.put(packed(GOOD)))
    await place.archives.delete_files(place.order)
