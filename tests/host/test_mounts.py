"""Overlay mounts of any depth, and files read within a root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocid.adapters import mounts
from ocid.adapters.hostfiles import HostDirectory
from ocid.domain import cdi
from ocid.errors import EffectFailed, Exhausted, InvalidRequest


@pytest.fixture
def place(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("overlay")
    for name in ("upper", "work", "target"):
        (place / name).mkdir()
    yield place
    mounts.unmount_below(str(place))


def layers_of(place: Path, count: int) -> list[Path]:
    """Layers of long names, each with its own file and its number in a shared one; the uppermost first."""
    layers = [place / "layers" / f"{number:03d}{'f' * 61}" for number in range(count)]
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / f"own-{number}").touch()
        (layer / "shared").write_text(str(number))
    return layers[::-1]


@pytest.mark.parametrize("count", [1, 130, 200])
@pytest.mark.parametrize("how", ["best", "options"])
def test_an_overlay_is_as_deep_as_it_has_to_be(place: Path, count: int, how: str) -> None:
    lowers, target = layers_of(place, count), place / "target"
    if how == "best":
        mounts.overlay(lowers, place / "upper", place / "work", target, volatile=True)
    else:
        names = [str(lower) for lower in lowers]
        mounts.overlay_by_options(names, str(place / "upper"), str(place / "work"), str(target), volatile=True)

    assert mounts.is_mount(str(target))
    assert len(list(target.iterdir())) == count + 1
    assert (target / "shared").read_text() == str(count - 1)
    (target / "new").write_text("written")
    assert (place / "upper/new").read_text() == "written"
    assert mounts.unmount(str(target))
    assert not mounts.unmount(str(target))
    assert not mounts.is_mount(str(target))


def test_an_overlay_without_an_upper_layer_is_read_only(place: Path) -> None:
    mounts.overlay(layers_of(place, 2), None, None, place / "target")
    with pytest.raises(OSError, match="Read-only"):
        (place / "target/new").touch()


def test_an_overlay_of_a_layer_that_is_gone_names_it(place: Path) -> None:
    with pytest.raises(EffectFailed, match="no-layer"):
        mounts.overlay([place / "no-layer"], place / "upper", place / "work", place / "target")
    with pytest.raises(Exhausted, match="501"):
        mounts.overlay(["/"] * 501, place / "upper", place / "work", place / "target")


def test_a_file_within_a_root_is_read_and_never_one_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink("../../../../etc/passwd", root / "climbing")
    os.symlink("/proc/self/root/etc/passwd", root / "magic")
    os.symlink("loop", root / "loop")
    os.mkfifo(root / "fifo")

    read = [mounts.read_in_root(root, name, 100) for name in ("etc/passwd", "/etc/passwd", "absolute", "climbing")]
    assert read == [b"inside"] * 4
    for name in ("magic", "loop", "fifo", "etc", "nothing", "etc/passwd/x", "../secret"):
        assert mounts.read_in_root(root, name, 100) == b""
    assert mounts.read_in_root(root, "etc/passwd", 2) == b"in"
    with pytest.raises(EffectFailed):
        mounts.read_in_root(tmp_path / "gone", "x", 1)


def test_mountinfo_is_read_as_it_is_escaped() -> None:
    line = r"36 35 98:0 /a\040b /mnt\134x rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue"
    (entry,) = mounts.mountinfo(line)

    assert (entry.root, entry.target, entry.propagation) == ("/a b", "/mnt\\x", ("shared:1", "master:2"))
    assert (entry.kind, entry.source, entry.super_options) == ("ext3", "/dev/root", "rw,errors=continue")


def test_mount_sources_are_resolved_and_made(tmp_path: Path) -> None:
    files = HostDirectory()
    os.symlink(tmp_path / "real", tmp_path / "link")
    with pytest.raises(InvalidRequest, match="does not exist"):
        files.resolve_mount(str(tmp_path / "link"), create=False)
    assert files.resolve_mount(str(tmp_path / "link"), create=True) == str(tmp_path / "real")
    assert (tmp_path / "real").is_dir()


def test_devices_are_read_as_the_container_will_see_them(tmp_path: Path) -> None:
    files = HostDirectory()
    os.symlink("/dev/null", tmp_path / "sink")
    (null,) = files.devices(str(tmp_path / "sink"), "/dev/other", "r")

    assert (null.path, null.kind, null.major, null.minor, null.access) == ("/dev/other", "c", 1, 3, "r")
    for path, words in (
        ("/etc/passwd", "no device"),
        ("/dev/no-such", "'/dev/no-such' does not exist on this host"),
        ("/dev/null/x", "'/dev/null/x' cannot exist on this host: Not a directory"),
        ("/" + "x" * 300, "cannot exist on this host: File name too long"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            files.devices(path, "/x", "r")


def test_files_that_a_request_names_and_are_not_there_are_its_fault(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("{}")
    assert HostDirectory().read(str(tmp_path / "profile"), 1) == b"{"
    for name in ("none", "profile/x", "."):
        with pytest.raises(InvalidRequest, match="exist on this host"):
            HostDirectory().read(str(tmp_path / name), 100)


def test_every_device_of_the_host() -> None:
    files = HostDirectory()
    paths = {node.path for node in files.all_devices()}
    assert {"/dev/null", "/dev/zero"} <= paths
    assert not any(path.startswith("/dev/pts") for path in paths)


def test_apparmor_profiles_are_read_by_name(tmp_path: Path) -> None:
    listed = tmp_path / "profiles"
    listed.write_text("ocid-default (enforce)\n/usr/bin/man (complain)\ntwo words (unconfined)\n")
    found = HostDirectory(apparmor=str(listed)).apparmor_profiles()
    assert found == {"ocid-default", "/usr/bin/man", "two words"}
    assert HostDirectory(apparmor=str(tmp_path / "none")).apparmor_profiles() is None


def test_cdi_specifications_are_read_by_directory_and_name(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    for directory in (low, high):
        directory.mkdir()
    (low / "b.json").write_bytes(b"b")
    (low / "a.yaml").write_bytes(b"a")
    (low / "bb.yml").write_bytes(b"bb")
    (low / "c.txt").write_bytes(b"c")
    (low / "d.json").mkdir()
    (high / "big.json").write_bytes(bytes(cdi.SPEC_BYTES_MAX + 1))
    found = HostDirectory(cdi_dirs=(str(low), str(tmp_path / "none"), str(high))).cdi_specs()
    assert [(Path(one.path).name, one.priority, one.content) for one in found] == [
        ("a.yaml", 0, b"a"), ("b.json", 0, b"b"), ("bb.yml", 0, b"bb"), ("big.json", 2, None)
    ]  # fmt: skip
    for number in range(cdi.SPECS_MAX + 1):
        (high / f"{number}.json").touch()
    with pytest.raises(Exhausted, match="more than 512 CDI specifications"):
        HostDirectory(cdi_dirs=(str(high),)).cdi_specs()
