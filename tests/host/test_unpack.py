"""Layers unpacked by the real worker: what good ones become, and how hostile ones are refused."""

# tests look at files

from __future__ import annotations

import gzip
import os
import struct
import tarfile
from pathlib import Path

import pytest

from ocid.adapters.unpack import Unpacked
from ocid.errors import EffectFailed
from tests import images
from tests.host.unpacking import tree, unpack
from tests.images import archive, device, directory, fifo, hardlink, member, opaque, symlink, whiteout

pytestmark = pytest.mark.host

NAMES = {"": "plain", "+gzip": "gzip", "+zstd": "zstd"}

# --- good layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", NAMES)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
async def test_everything_a_layer_may_hold(tmp_path: Path, packing: str, format: int) -> None:
    long = "d" * 120 + "/" + "f" * 130
    raw = archive(
        directory("./", mode=0o755),
        directory("./etc/", mode=0o750, uid=1, gid=2, mtime=1000),
        member("./etc/passwd", b"root", mode=0o644, mtime=2000),
        member("etc/shadow", b"", mode=0o600, uid=70000, gid=42),
        member("bin/su", b"setuid", mode=0o4755, uid=3, gid=3),
        hardlink("bin/sudo", "bin/su"),
        symlink("bin/sh", "/bin/busybox", uid=5, mtime=3000),
        device("dev/null", 1, 3),
        device("dev/sda", 8, 0, tarfile.BLKTYPE),
        fifo("run/pipe"),
        directory("tmp", mode=0o1777),
        member(long, b"long"),
        member("big", b"b" * 1_000_000),
        member("é\udcff", b"name"),
        format=format,
    )
    made = await unpack(tmp_path, raw, images.PACKERS[packing](raw), NAMES[packing])
    root = tmp_path / "layer"
    found = tree(root)
    big = found.pop("big")
    assert big == "-rw-r--r-- " + "b" * 1_000_000
    assert found == {
        "bin": "drwxr-xr-x",
        "bin/sh": "lrwxrwxrwx -> /bin/busybox",
        "bin/su": "-rwsr-xr-x setuid",
        "bin/sudo": "-rwsr-xr-x setuid",
        "dev": "drwxr-xr-x",
        "dev/null": "crw-rw-rw- 1:3",
        "dev/sda": "brw-rw-rw- 8:0",
        "d" * 120: "drwxr-xr-x",
        long: "-rw-r--r-- long",
        "etc": "drwxr-x---",
        "etc/passwd": "-rw-r--r-- root",
        "etc/shadow": "-rw------- ",
        "run": "drwxr-xr-x",
        "run/pipe": "prw-r--r--",
        "tmp": "drwxrwxrwt",
        "é\udcff": "-rw-r--r-- name",
    }
    assert owner(root / "etc") == (1, 2)
    assert owner(root / "etc/shadow") == (70000, 42)
    assert owner(root / "bin/su") == (3, 3)
    assert owner(root / "bin/sh") == (5, 0)
    assert (root / "etc").stat().st_mtime == 1000
    assert (root / "etc/passwd").stat().st_mtime == 2000
    assert (root / "bin/sh").lstat().st_mtime == 3000
    assert (root / "bin/su").stat().st_ino == (root / "bin/sudo").stat().st_ino
    assert made.inodes == 1 + sum(1 for _ in root.rglob("*")) - 1  # the root, and one file of two names
    assert 1_000_000 < made.size_bytes < 1_200_000
    assert not made.covers_all


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep


async def test_extended_attributes(tmp_path: Path) -> None:
    value = CAPABILITY.decode("latin-1").encode("latin-1").decode("utf-8", "surrogateescape")
    headers = {"SCHILY.xattr.security.capability": value, "SCHILY.xattr.user.mime": "text/plain"}
    quiet = {"SCHILY.xattr.security.selinux": "label", "SCHILY.xattr.trusted.x": "y"}
    await unpack(
        tmp_path,
        archive(
            member("ping", b"1", mode=0o755, uid=7, pax_headers=headers),
            member("quiet", b"", pax_headers=quiet),
            directory("dir", pax_headers={"SCHILY.xattr.user.a": "b"}),
        ),
    )
    root = tmp_path / "layer"
    assert os.getxattr(root / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(root / "ping", "user.mime") == b"text/plain"
    assert os.getxattr(root / "dir", "user.a") == b"b"
    assert os.listxattr(root / "quiet") == []


async def test_whiteouts_become_what_overlayfs_understands(tmp_path: Path) -> None:
    made = await unpack(
        tmp_path,
        archive(
            directory("etc"),
            whiteout("etc/gone"),
            whiteout("top"),
            directory("var"),
            opaque("var"),
            member("var/new", b"1"),
            opaque("implied"),
            member(".wh..wh.plnk/1.2", b""),
            member(".wh..wh.aufs", b""),
        ),
    )
    assert tree(tmp_path / "layer") == {
        "etc": "drwxr-xr-x",
        "etc/gone": "c--------- 0:0",
        "top": "c--------- 0:0",
        "var": "drwxr-xr-x opaque",
        "var/new": "-rw-r--r-- 1",
        "implied": "drwxr-xr-x opaque",
    }
    assert not made.covers_all


async def test_an_opaque_root_covers_all(tmp_path: Path) -> None:
    assert (await unpack(tmp_path, archive(opaque(""), member("a", b"1")))).covers_all


async def test_a_whiteout_never_hides_what_its_own_layer_has(tmp_path: Path) -> None:
    await unpack(
        tmp_path,
        archive(
            member("file", b"1"),
            whiteout("file"),
            directory("dir"),
            whiteout("dir"),
            whiteout("later"),
            member("later", b"2"),
            whiteout("laterdir"),
            directory("laterdir"),
            whiteout("implied"),
            member("implied/x", b"3"),
        ),
    )
    assert tree(tmp_path / "layer") == {
        "file": "-rw-r--r-- 1",
        "dir": "drwxr-xr-x opaque",
        "later": "-rw-r--r-- 2",
        "laterdir": "drwxr-xr-x opaque",
        "implied": "drwxr-xr-x opaque",
        "implied/x": "-rw-r--r-- 3",
    }


async def test_of_two_entries_with_one_name_the_last_wins(tmp_path: Path) -> None:
    await unpack(
        tmp_path,
        archive(
            member("a", b"1"),
            member("a", b"2"),
            directory("b"),
            member("b/inner", b""),
            directory("b/deep"),
            member("b/deep/x", b""),
            member("b", b"file now"),
            member("c", b"file"),
            directory("c"),
            member("c/x", b"1"),
            symlink("d", "a"),
            member("d", b"no link now"),
            directory("e"),
            symlink("e", "a"),
            directory("f", mode=0o700, uid=5),
            member("f/x", b"kept"),
            directory("f", mode=0o755),
            member("big", bytes(300_000)),
            member("big", b"small"),
        ),
    )
    assert tree(tmp_path / "layer") == {
        "a": "-rw-r--r-- 2",
        "b": "-rw-r--r-- file now",
        "c": "drwxr-xr-x",
        "c/x": "-rw-r--r-- 1",
        "d": "-rw-r--r-- no link now",
        "e": "lrwxrwxrwx -> a",
        "f": "drwxr-xr-x",
        "f/x": "-rw-r--r-- kept",
        "big": "-rw-r--r-- small",
    }
    assert owner(tmp_path / "layer/f") == (0, 0)


async def test_a_link_between_directories_of_the_layer_is_followed(tmp_path: Path) -> None:
    await unpack(
        tmp_path,
        archive(
            directory("usr"),
            symlink("lib", "usr/lib"),
            member("lib/x", b"1"),
            hardlink("y", "lib/x"),
            member("usr/lib/z", b"2"),
            symlink("usr/up", ".."),
            member("usr/up/top", b"3"),
        ),
    )
    found = tree(tmp_path / "layer")
    assert found["usr/lib/x"] == found["y"] == "-rw-r--r-- 1"
    assert found["top"] == "-rw-r--r-- 3"
    assert found["lib"] == "lrwxrwxrwx -> usr/lib"


async def test_a_setgid_directory_gives_its_group_to_nobody(tmp_path: Path) -> None:
    await unpack(tmp_path, archive(directory("d", mode=0o2775, gid=50), member("d/f", b"1"), directory("d/s")))
    root = tmp_path / "layer"
    assert [owner(root / name) for name in ("d", "d/f", "d/s")] == [(0, 50), (0, 0), (0, 0)]
    assert tree(root) == {"d": "drwxrwsr-x", "d/f": "-rw-r--r-- 1", "d/s": "drwxr-xr-x"}


async def test_many_small_files(tmp_path: Path) -> None:
    members = [member(f"{number % 7}/{number}", str(number).encode()) for number in range(3000)]
    links = [hardlink(f"link/{number}", f"{number % 7}/{number}") for number in range(0, 3000, 100)]
    made = await unpack(tmp_path, archive(*members, *links))
    root = tmp_path / "layer"
    assert all((root / f"{number % 7}/{number}").read_text() == str(number) for number in range(3000))
    assert (root / "link/2900").read_text() == "2900"
    assert made.inodes == 1 + 3000 + 8


@pytest.mark.parametrize("raw", [b"", bytes(1024), bytes(10240), archive()], ids=len)
async def test_an_empty_layer(tmp_path: Path, raw: bytes) -> None:
    assert await unpack(tmp_path, raw) == Unpacked(size_bytes=4096, inodes=1, covers_all=False)


async def test_several_gzip_members_are_one_stream(tmp_path: Path) -> None:
    raw = images.files(a=b"1" * 5000, b=b"2")
    await unpack(tmp_path, raw, gzip.compress(raw[:3000]) + gzip.compress(b"") + gzip.compress(raw[3000:]), "gzip")
    assert tree(tmp_path / "layer")["b"] == "-rw-r--r-- 2"


# --- hostile layers --------------------------------------------------------------------------------------------------

HOSTILE = {
    "dot dot": (archive(member("../escaped", b"x")), "'../escaped'.*climbs"),
    "dot dot inside": (archive(member("a/../../escaped", b"x")), "climbs"),
    "absolute": (archive(member("/tmp/ocid-escaped", b"x")), "absolute"),
    "link out": (images.escaping_symlink(), "'out/ocid-escaped'.*climbs out through a symbolic link"),
    "absolute link": (archive(symlink("out", "/tmp"), member("out/x", b"")), "symbolic link to '/tmp'"),
    "link of links": (
        archive(symlink("a", "b"), symlink("b", "a"), member("a/x", b"")),
        "too many symbolic links",
    ),
    "hard link out": (archive(hardlink("h", "../../etc/shadow")), "climbs"),
    "hard link to the host": (archive(hardlink("h", "/etc/shadow")), "not a directory of this layer"),
    "hard link below": (archive(hardlink("h", "lower")), "'h' is a hard link to 'lower', which is not a file of this"),
    "hard link through a link": (archive(symlink("l", "/etc"), hardlink("h", "l/shadow")), "symbolic link"),
    "hard link to a directory": (archive(directory("d"), hardlink("h", "d")), "not a file"),
    "hard link to a whiteout": (archive(whiteout("w"), hardlink("h", "w")), "not a file"),
    "hard link to itself": (archive(member("h", b""), hardlink("h", "h")), "not a file"),
    "below a file": (archive(member("f", b""), member("f/x", b"")), "'f' is not a directory"),
    "below a device": (archive(device("dev", 1, 3), member("dev/x", b"")), "not a directory"),
    "a link to nothing": (archive(symlink("s", "")), "nothing"),
    "a root that is a file": (archive(member("./", b"")), "root"),
    "a root that is a link": (archive(symlink(".", "/")), "root"),
    "whiteout in disguise": (archive(device("x", 0, 0)), "disguise"),
    "overlay attribute": (
        archive(directory("d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/"})),
        r"trusted\.overlay\.redirect",
    ),
    "long name": (archive(member("n" * 256, b"")), "255"),
    "owner": (archive(member("f", uid=0xFFFF_FFFF)), "owner"),
    "trailing archive": (images.files(a=b"1") + images.files(b=b"2"), "after its end"),
    "cut archive": (images.files(a=b"1" * 1000)[:1200], "cut off"),
    "no archive": (b"\x7fELF" + bytes(range(256)) * 8, "layer archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_layer_is_refused_and_touches_nothing_else(tmp_path: Path, case: str) -> None:
    raw, words = HOSTILE[case]
    before = set(os.listdir("/tmp"))
    with pytest.raises(EffectFailed, match=words):
        await unpack(tmp_path, raw)
    assert {name for name in set(os.listdir("/tmp")) - before if "escaped" in name} == set()
    assert sorted(os.listdir(tmp_path)) == ["blob", "layer"]
