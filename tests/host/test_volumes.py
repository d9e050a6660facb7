"""Images mounted as volumes: read-only, confined, and gone with their container."""

# ruff: noqa: ASYNC240  # tests look at files

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ocid.adapters import mounts
from ocid.adapters.layers import LayerStore
from ocid.adapters.unpack import Unpacker
from ocid.errors import EffectFailed, NotFound
from ocid.ids import ChainId
from tests import images
from tests.host.test_layers import BASE, UPPER, keep, order_of
from tests.images import archive, directory, member, symlink

pytestmark = pytest.mark.host

TRAPS = archive(
    directory("data"),
    member("data/file", b"inside"),
    directory("etc"),
    member("etc/passwd", b"the image's"),
    symlink("data/absolute", "/etc/passwd"),
    symlink("data/upwards", "../../../../../../etc/passwd"),
    symlink("data/outside", "/proc/self/root/root"),
    symlink("data/loop", "loop"),
    symlink("data/link", "/data"),
)


@pytest.fixture
def root(run_dir: Path) -> Path:
    return run_dir / "store"


@pytest.fixture
def store(root: Path) -> LayerStore:
    return LayerStore(root, Unpacker())


@pytest.mark.parametrize(
    ("layers", "listed"),
    [([], []), ([BASE], ["etc", "etc/base", "etc/gone", "var", "var/old"]),
     ([BASE, UPPER], ["etc", "etc/base", "etc/upper", "var", "var/new"])],
)  # fmt: skip
async def test_the_whole_image_is_there_and_cannot_be_written(
    root: Path, store: LayerStore, layers: list[bytes], listed: list[str]
) -> None:
    chain = await keep(store, images.image(layers)) if layers else []
    order = order_of(root)
    place = await store.mount_image(order, 3, chain, "")
    assert await store.mount_image(order, 3, chain, "") == place == Path(order.bundle, "images/3")
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == listed
    if layers:
        with pytest.raises(OSError, match="Read-only") as error:
            (place / "etc/new").touch()
        assert error.value.errno == errno.EROFS
    await store.unmount(order)
    await store.unmount(order)
    assert not mounts.targets_below(order.bundle)
    await store.remove_writable(order)
    assert not os.path.exists(order.bundle)
    assert all(store.has(one) for one in chain)


async def test_removing_unmounts_first_and_leaves_the_layers_alone(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE]))
    order = order_of(root)
    await store.mount(order, chain)
    for number in range(3):
        await store.mount_image(order, number, chain, "")
    await store.remove_writable(order)
    assert not os.path.exists(order.bundle)
    again = await store.mount_image(order, 0, chain, "etc/base")
    assert again.read_text() == "base"
    await store.remove_writable(order)


@pytest.mark.parametrize(
    ("sub_path", "found"),
    [("", ""), (".", ""), ("data", "data"), ("data/", "data"), ("data/file", "data/file"),
     ("data/link/file", "data/file"), ("data/absolute", "etc/passwd"), ("data/upwards", "etc/passwd")],
)  # fmt: skip
async def test_a_sub_path_is_resolved_within_the_image(
    root: Path, store: LayerStore, sub_path: str, found: str
) -> None:
    chain = await keep(store, images.image([TRAPS]))
    order = order_of(root)
    try:
        assert await store.mount_image(order, 0, chain, sub_path) == Path(order.bundle, "images/0", found)
    finally:
        await store.remove_writable(order)


@pytest.mark.parametrize(
    ("sub_path", "says"),
    [("missing", "No such file"), ("data/outside", "No such file"), ("data/loop", "Too many levels"),
     ("data/file/x", "Not a directory"), ("x" * 300, "File name too long")],
)  # fmt: skip
async def test_a_sub_path_that_is_not_in_the_image_is_refused(
    root: Path, store: LayerStore, sub_path: str, says: str
) -> None:
    chain = await keep(store, images.image([TRAPS]))
    order = order_of(root)
    try:
        with pytest.raises(EffectFailed, match=says):
            await store.mount_image(order, 0, chain, sub_path)
    finally:
        await store.remove_writable(order)


async def test_a_layer_that_is_not_there_is_named(root: Path, store: LayerStore) -> None:
    with pytest.raises(NotFound, match="sha256:beef"):
        await store.mount_image(order_of(root), 0, [ChainId("sha256:beef")], "")
