"""What layers may contain, and the reader of their archives."""

from __future__ import annotations

import io
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain import archive, tar
from ocid.domain.archive import COVER, KEEP, REMOVE, SKIP, Limits
from ocid.errors import EffectFailed, Exhausted, OcidError
from tests import images

# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"a/b", b"a/b"),
        (b"./a/b/", b"a/b"),
        (b"a//b/./c", b"a/b/c"),
        (b".", b""),
        (b"./", b""),
        (b"", b""),
        (b"..a/b..", b"..a/b.."),
        (b"a\xff", b"a\xff"),
        (b"/etc/passwd", None),
        (b"//x", None),
        (b"..", None),
        (b"a/../b", None),
        (b"../b", None),
        (b"a/..", None),
        (b"a\0b", None),
        (b"n" * 255, b"n" * 255),
        (b"n" * 256, None),
        (b"d/" * 255 + b"f", b"d/" * 255 + b"f"),
        (b"d/" * 256 + b"f", None),
        (b"/".join([b"n" * 250] * 17), None),
    ],
)
def test_path_of(name: bytes, path: bytes | None) -> None:
    if path is None:
        with pytest.raises(EffectFailed):
            archive.path_of(name)
    else:
        assert archive.path_of(name) == path


@given(st.binary(max_size=40) | st.lists(st.sampled_from([b"..", b".", b"a", b"", b"/"]), max_size=8).map(b"/".join))
def test_no_name_leads_out(name: bytes) -> None:
    try:
        path = archive.path_of(name)
    except EffectFailed:
        return
    parts = path.split(b"/") if path else []
    assert not {b"", b".", b".."} & set(parts)
    assert archive.path_of(path) == path


def test_a_hard_link_may_begin_with_a_slash_but_not_climb() -> None:
    assert archive.link_path_of(b"/bin/busybox", b"bin/sh") == b"bin/busybox"
    with pytest.raises(EffectFailed, match="climbs"):
        archive.link_path_of(b"../../etc/shadow", b"x")


@pytest.mark.parametrize(
    ("path", "act", "meant"),
    [
        (b"a/b", KEEP, b"a/b"),
        (b"a/.wh.b", REMOVE, b"a/b"),
        (b".wh.b", REMOVE, b"b"),
        (b"a/.wh..wh..opq", COVER, b"a"),
        (b".wh..wh..opq", COVER, b""),
        (b".wh..wh.plnk", SKIP, b".wh..wh.plnk"),
        (b".wh..wh.plnk/12.34", SKIP, b".wh..wh.plnk/12.34"),
        (b"a/x.wh.y", KEEP, b"a/x.wh.y"),
        (b"a/.wh", KEEP, b"a/.wh"),
        (b"a/.wh..hidden", REMOVE, b"a/.hidden"),
    ],
)
def test_meaning(path: bytes, act: str, meant: bytes) -> None:
    assert archive.meaning(path) == (act, meant)


@pytest.mark.parametrize("path", [b".wh.", b"a/.wh.", b".wh..", b".wh...", b".wh.a/b"])
def test_a_whiteout_of_nothing_is_refused(path: bytes) -> None:
    with pytest.raises(EffectFailed):
        archive.meaning(path)


@pytest.mark.parametrize(
    ("directory", "target", "leads_to"),
    [
        (b"", b"usr/lib", b"usr/lib"),
        (b"a/b", b"../c", b"a/c"),
        (b"a", b"..", b""),
        (b"a", b"./x//y", b"a/x/y"),
        (b"", b"/etc", None),
        (b"a", b"../../etc", None),
        (b"", b"..", None),
    ],
)
def test_a_symbolic_link_is_followed_inside_only(directory: bytes, target: bytes, leads_to: bytes | None) -> None:
    if leads_to is None:
        with pytest.raises(EffectFailed, match="symbolic link"):
            archive.through_link(directory, target, b"name")
    else:
        assert archive.through_link(directory, target, b"name") == leads_to


def test_attributes_that_steer_the_overlay_are_refused() -> None:
    assert archive.keeps_attribute(b"security.capability", b"x", b"f")
    assert archive.keeps_attribute(b"user.mime", b"x", b"f")
    for quiet in (b"security.selinux", b"trusted.other", b"system.posix_acl_access"):
        assert not archive.keeps_attribute(quiet, b"x", b"f")
    for loud in (b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"user.overlay.whiteout"):
        with pytest.raises(EffectFailed, match="overlay"):
            archive.keeps_attribute(loud, b"y", b"f")
    with pytest.raises(EffectFailed, match="too large"):
        archive.keeps_attribute(b"user.x", bytes(1 << 17), b"f")


def test_a_device_in_the_shape_of_a_whiteout_is_refused() -> None:
    archive.check_device(1, 3, b"dev/null")
    with pytest.raises(EffectFailed, match="disguise"):
        archive.check_device(0, 0, b"x")
    with pytest.raises(EffectFailed, match="range"):
        archive.check_device(5000, 0, b"x")


def test_limits() -> None:
    limits = Limits(bytes_max=1000, entries_max=2, ratio_max=10, ratio_from_bytes=100)
    limits.count(b"1")
    limits.count(b"2")
    with pytest.raises(Exhausted, match=r"2 entries.*'3'"):
        limits.count(b"3")
    limits.check_stream(100, 1)  # small enough at any ratio
    limits.check_stream(500, 50)
    with pytest.raises(Exhausted, match="decompression bomb"):
        limits.check_stream(501, 50)
    with pytest.raises(Exhausted, match="1000 bytes"):
        limits.check_stream(1001, 500)


# --- the reader ------------------------------------------------------------------------------------------------------


def reader(raw: bytes, chunk: int = 1 << 16) -> tar.Reader:
    source = io.BytesIO(raw)
    return tar.Reader(lambda: source.read(chunk))


def contents(raw: bytes, chunk: int = 1 << 16) -> list[tuple[tar.Entry, bytes]]:
    found: list[tuple[tar.Entry, bytes]] = []
    one = reader(raw, chunk)
    while (entry := one.next()) is not None:
        found.append((entry, one.data(entry) if entry.kind == tar.FILE else b""))
    return found


def described(raw: bytes, chunk: int = 1 << 16) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name.rstrip(b"/").decode("utf-8", "surrogateescape"),
            "kind": bytes([entry.kind]),
            "link": entry.link.decode("utf-8", "surrogateescape"),
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime": entry.mtime_ns // 1000,
            "device": (entry.major, entry.minor),
            "data": data,
        }
        for entry, data in contents(raw, chunk)
    ]


def as_tarfile_reads(raw: bytes) -> list[dict[str, Any]]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as one:
        for entry in one:
            file = one.extractfile(entry) if entry.isreg() else None
            device = (entry.devmajor, entry.devminor) if entry.isdev() and not entry.isfifo() else (0, 0)
            found.append(
                {
                    "name": entry.name,
                    "kind": tarfile.REGTYPE if entry.type == tarfile.AREGTYPE else entry.type,
                    "link": entry.linkname,
                    "mode": entry.mode & 0o7777,
                    "uid": entry.uid,
                    "gid": entry.gid,
                    "mtime": round(entry.mtime * 1_000_000),
                    "device": device,
                    "data": file.read() if file is not None else b"",
                }
            )
    return found


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150).filter(
    lambda name: name.strip("./") == name
)
MEMBERS = st.one_of(
    st.builds(
        images.member,
        st.lists(NAMES, min_size=1, max_size=3).map("/".join),
        st.binary(max_size=2000),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 0xFFFF_FFFE),
        gid=st.sampled_from([0, 0o7777777, 0o10000000]),
        mtime=st.integers(0, 1 << 33),
    ),
    st.builds(images.symlink, NAMES, st.text("ab/.é", min_size=1, max_size=220)),
    st.builds(images.hardlink, NAMES, NAMES),
    st.builds(images.directory, NAMES, st.integers(0, 0o7777)),
    st.builds(images.device, NAMES, st.integers(1, 4095), st.integers(0, 0o7777777)),
    st.builds(images.fifo, NAMES),
)


@given(st.lists(MEMBERS, max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(1, 3000))
def test_the_reader_agrees_with_tarfile(members: list[tuple[tarfile.TarInfo, bytes]], format: int, chunk: int) -> None:
    raw = images.archive(*members, format=format)
    assert described(raw, chunk) == as_tarfile_reads(raw)


@pytest.mark.parametrize("format", ["gnu", "pax", "posix", "ustar", "v7", "oldgnu"])
def test_the_reader_agrees_with_gnu_tar(tmp_path: Path, format: str) -> None:
    tree = tmp_path / "tree"
    name = "short" if format in ("v7", "ustar") else "long" * 40
    (tree / name).mkdir(parents=True)
    (tree / name / "file").write_bytes(b"x" * 1000)
    (tree / "empty").touch()
    (tree / "link").symlink_to("empty")
    (tree / "hard").hardlink_to(tree / "empty")
    made = subprocess.run(
        ["tar", f"--format={format}", "--sort=name", "-C", str(tree), "-c", "."], capture_output=True, check=True
    )
    raw = made.stdout
    assert [one["name"] for one in described(raw)] == [
        ".",
        "./empty",
        "./hard",
        "./link",
        f"./{name}",
        f"./{name}/file",
    ]
    ours, theirs = described(raw), as_tarfile_reads(raw)
    for one, other in zip(ours, theirs, strict=True):
        assert one["mtime"] == pytest.approx(other["mtime"], abs=2)
        assert {**one, "mtime": 0} == {**other, "mtime": 0}


def test_extended_attributes_and_fractions_of_seconds_are_read() -> None:
    entry, data = images.member("f", b"1", pax_headers={"mtime": "12.5", "SCHILY.xattr.user.a": "b=c", "comment": "x"})
    ((found, content),) = contents(images.archive((entry, data)))
    assert found.xattrs == {b"user.a": b"b=c"}
    assert found.mtime_ns == 12_500_000_000
    assert content == b"1"


def test_an_entry_with_a_time_before_1970_keeps_it() -> None:
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        ((found, _),) = contents(images.archive(images.member("f", mtime=-5), format=format))
        assert found.mtime_ns == -5_000_000_000


def test_large_files_come_in_pieces_and_may_be_skipped() -> None:
    raw = images.archive(images.member("big", bytes(100_000)), images.member("next", b"n"))
    one = reader(raw, 4096)
    entry = one.next()
    assert entry is not None
    assert sum(len(piece) for piece in one.chunks(entry)) == 100_000
    assert [entry.name for entry, _ in contents(raw, 4096)] == [b"big", b"next"]
    one = reader(raw, 4096)
    assert one.next() is not None
    following = one.next()
    assert following is not None
    assert following.name == b"next"


def test_an_archive_without_end_marker_or_of_nothing_is_fine() -> None:
    assert contents(b"") == []
    assert contents(bytes(1024)) == []
    assert contents(bytes(512)) == []
    assert len(contents(images.files(a=b"1")[:1024])) == 1


def header(**fields: Any) -> bytes:
    entry, _ = images.member("f", **fields)
    return entry.tobuf(tarfile.GNU_FORMAT)


def resummed(block: bytes) -> bytes:
    plain = block[:148] + b" " * 8 + block[156:]
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def with_field(at: int, value: bytes) -> bytes:
    block = header()
    return resummed(block[:at] + value + block[at + len(value) :])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (images.files(a=b"1")[:700], "cut off"),
        (images.files(a=b"1")[:300], "cut off"),
        (header()[:100] + b"9" + header()[101:], "checksum"),
        (bytes(1024) + b"hidden", "after its end"),
        (images.files(a=b"1") + images.files(b=b"2"), "after its end"),
        (with_field(124, b"99999999999\0"), "no number"),
        (with_field(124, b"\xff" * 12), "size"),
        (with_field(124, b"\x80" + b"\xff" * 11), "size"),
        (with_field(108, b"\xff" * 8), "owner"),
        (with_field(156, b"S"), "type 'S'"),
        (with_field(156, b"Z"), "type 'Z'"),
        (header(type=b"x", size=10) + b"10 path=a\n".ljust(512, b"\0"), "ends after an extension"),
        (header(type=b"x", size=9) + b"99 path=a".ljust(512, b"\0"), "pax"),
        (header(type=b"x", size=9) + b"xx path=a".ljust(512, b"\0"), "pax"),
        (header(type=b"x", size=4 << 20), "1 MiB"),
        ((header(type=b"g", size=0)) * 20, "extension headers"),
        (header(type=b"x", size=22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0"), "sparse"),
        (header(type=b"x", size=12) + b"12 uid=-100\n".ljust(512, b"\0") + header(), "no number"),
    ],
)
def test_a_damaged_archive_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(EffectFailed, match=words):
        contents(raw)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_any_bytes_are_read_or_refused(raw: bytes, chunk: int) -> None:
    with suppress(OcidError):
        contents(raw, chunk)


@given(st.data())
def test_any_change_to_an_archive_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(images.archive(images.member("n" * 120, b"abc"), images.symlink("l", "t" * 120)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(OcidError):
        contents(bytes(raw))
