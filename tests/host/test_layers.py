"""The image store: layers kept, mounted, removed, and whole after whatever interrupted it."""

# ruff: noqa: ASYNC240  # tests look at files

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters import durable, layers as adapter, mounts
from ocid.adapters.layers import LayerStore
from ocid.adapters.unpack import Unpacker
from ocid.errors import EffectFailed, NotFound, Unavailable
from ocid.ids import ChainId, ContainerId, PodId, digest_of
from ocid.ports import ContainerOrder, LayerBlob, LayerSize
from tests import images
from tests.images import BuiltImage, archive, directory, member, opaque, whiteout

pytestmark = pytest.mark.host

BASE = archive(
    directory("etc", mode=0o750, uid=9),
    member("etc/base", b"base"),
    member("etc/gone", b"x"),
    directory("var"),
    member("var/old", b"x"),
)
UPPER = archive(directory("etc"), whiteout("etc/gone"), member("etc/upper", b"upper"), opaque("var"), member("var/new"))


@pytest.fixture
def root(run_dir: Path) -> Path:
    return run_dir / "store"


@pytest.fixture
def store(root: Path) -> LayerStore:
    return LayerStore(root, Unpacker())


def order_of(root: Path, name: str = "c1") -> ContainerOrder:
    return ContainerOrder(
        container_id=ContainerId(name),
        pod_id=PodId("p"),
        handler="",
        bundle=str(root.parent / "bundles" / name),
        writable=str(root / "containers" / name),
        cgroup="",
        log_path="",
    )


def write_blob(store: LayerStore, layer: LayerBlob, blob: bytes) -> Path:
    path = store.blob_path(layer.blob)
    path.write_bytes(blob)
    return path


async def keep(store: LayerStore, image: BuiltImage) -> list[ChainId]:
    """Unpack an image's layers and return their chain ids."""
    for layer in image.layers:
        await store.unpack(layer, write_blob(store, layer, image.blobs[layer.blob]))
    return [layer.chain_id for layer in image.layers]


async def names(root: Path, store: LayerStore, chain: Sequence[ChainId]) -> list[str]:
    """Mount *chain*, list all that is in it, and unmount it."""
    order = order_of(root)
    mounted = await store.mount(order, chain)
    found = sorted(str(path.relative_to(mounted)) for path in mounted.rglob("*"))
    await store.unmount(order)
    await store.remove_writable(order)
    return found


async def test_an_image_is_kept_mounted_and_written_to(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE, UPPER]))
    assert store.chain_ids() == set(chain)
    assert all(store.has(chain_id) for chain_id in chain)
    assert os.listdir(root / "staging") == []
    order = order_of(root)
    mounted = await store.mount(order, chain)
    assert await store.mount(order, chain) == mounted, "mounting again changes nothing"
    assert sorted(str(path.relative_to(mounted)) for path in mounted.rglob("*")) == [
        "etc", "etc/base", "etc/upper", "var", "var/new"
    ]  # fmt: skip
    (mounted / "etc/base").write_text("changed")
    assert store.read_in_root(order, "/etc/base", 100) == b"changed"
    assert store.read_in_root(order, "etc/nothing", 100) == b""
    await store.unmount(order)
    await store.unmount(order)
    assert not mounts.is_mount(str(mounted))
    mounted = await store.mount(order, chain)
    assert (mounted / "etc/base").read_text() == "changed", "the writable layer outlives the mount"
    await store.remove_writable(order)
    await store.remove_writable(order)
    assert os.listdir(root / "containers") == os.listdir(root.parent / "bundles") == []
    assert "etc/gone" in await names(root, store, chain[:1])


async def test_the_root_directory_is_that_of_the_uppermost_layer(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE, archive(directory("./", mode=0o711, uid=3, gid=4))]))
    order = order_of(root)
    status = (await store.mount(order, chain)).stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o711, 3, 4)
    await store.remove_writable(order)


async def test_an_opaque_root_hides_all_layers_below(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE, archive(opaque(""), member("only", b""))]))
    assert await names(root, store, chain) == ["only"]


async def test_an_image_without_layers_and_one_of_many(root: Path, store: LayerStore) -> None:
    assert await names(root, store, []) == []
    chain = await keep(store, images.image([archive(member(f"f{number}", b"")) for number in range(100)]))
    assert len(await names(root, store, chain)) == 100


async def test_a_layer_that_is_there_is_not_unpacked_again(store: LayerStore) -> None:
    layer, blob = images.layer(BASE)
    first = await store.unpack(layer, write_blob(store, layer, blob))
    path = write_blob(store, layer, b"nonsense")
    assert await store.unpack(layer, path) == first
    assert not path.exists()


async def test_one_archive_twice_in_an_image_is_two_layers(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE, UPPER, BASE]))
    assert len(set(chain)) == 3
    assert "etc/gone" in await names(root, store, chain)


async def test_layers_are_unpacked_side_by_side(root: Path, store: LayerStore) -> None:
    image = images.image([archive(member(f"f{number}", b"x" * 1000)) for number in range(6)])
    async with trio.open_nursery() as nursery:
        for layer in image.layers:
            nursery.start_soon(store.unpack, layer, write_blob(store, layer, image.blobs[layer.blob]))
    assert len(await names(root, store, [layer.chain_id for layer in image.layers])) == 6


async def test_those_who_wait_for_the_disk_together_share_one_sync(
    root: Path, store: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    def slow(_: Path) -> None:
        began.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(durable, "syncfs", slow)
    one = durable.StoreSync(root)
    asked: dict[float, float] = {}

    async def ask(after_s: float) -> None:
        await trio.sleep(after_s)
        start = time.monotonic()
        await one.sync()
        asked[start] = time.monotonic()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(ask, number / 100)
    assert len(began) == 2
    for start, end in asked.items():
        assert any(start <= sync and sync + 0.1 <= end for sync in began), "a sync began after it was asked for"


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [images.escaping_symlink(), archive(member("../x", b"")), BASE[:700]], ids=["link", "dots", "cut"]
)
async def test_of_a_refused_layer_nothing_is_left(root: Path, store: LayerStore, raw: bytes) -> None:
    layer, blob = images.layer(raw)
    with pytest.raises(EffectFailed):
        await store.unpack(layer, write_blob(store, layer, blob))
    assert not store.has(layer.chain_id)
    assert os.listdir(root / "staging") == os.listdir(root / "layers") == []


async def test_another_diff_id_is_refused(root: Path, store: LayerStore) -> None:
    layer, blob = images.layer(BASE)
    _, other = images.layer(UPPER)
    with pytest.raises(EffectFailed, match=f"{digest_of(UPPER)}, its image says {layer.diff_id}"):
        await store.unpack(layer, write_blob(store, layer, other))
    assert os.listdir(root / "staging") == os.listdir(root / "layers") == []
    await store.unpack(layer, write_blob(store, layer, blob))
    assert store.has(layer.chain_id)


async def test_a_missing_blob_or_layer_is_said_to_be_missing(root: Path, store: LayerStore) -> None:
    layer, _ = images.layer(BASE)
    with pytest.raises(Unavailable, match="pull again"):
        await store.unpack(layer, store.blob_path(layer.blob))
    with pytest.raises(NotFound, match=layer.chain_id):
        await store.mount(order_of(root), [layer.chain_id])
    assert not Path(order_of(root).bundle).exists()


async def test_a_cancelled_unpack_leaves_nothing(root: Path, store: LayerStore) -> None:
    layer, _ = images.layer(BASE)
    os.mkfifo(store.blob_path(layer.blob))
    held = os.open(store.blob_path(layer.blob), os.O_RDWR)
    with trio.move_on_after(0.3) as scope:
        await store.unpack(layer, store.blob_path(layer.blob))
    os.close(held)
    assert scope.cancelled_caught
    assert os.listdir(root / "layers") == []
    assert os.listdir(root / "staging") == [store.blob_path(layer.blob).name]


async def test_a_crash_before_the_rename_leaves_only_garbage(
    root: Path, store: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, blob = images.layer(BASE)

    class Crash(BaseException):
        pass

    def crash(*_: Any) -> None:
        raise Crash

    async def nobody_cleans_up(*_: Any) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(LayerStore, "_publish", crash)
        patch.setattr(LayerStore, "_discard", nobody_cleans_up)
        with pytest.raises(Crash):
            await store.unpack(layer, write_blob(store, layer, blob))
    assert len(os.listdir(root / "staging")) == 1
    reborn = LayerStore(root, Unpacker())
    assert reborn.chain_ids() == frozenset()
    assert await reborn.unpack(layer, write_blob(reborn, layer, blob)) is not None
    assert os.listdir(root / "staging") == []


async def test_a_new_life_finds_what_the_last_one_left(root: Path, store: LayerStore) -> None:
    chain = await keep(store, images.image([BASE, UPPER]))
    (root / "layers" / "half").mkdir()
    (root / "layers" / chain[0].removeprefix("sha256:") / "meta.json").write_text("{}")
    (root / "staging" / "unpack-x" / "diff").mkdir(parents=True)
    (root / "staging" / "blob-x").touch()
    reborn = LayerStore(root, Unpacker())
    assert reborn.chain_ids() == {chain[1]}
    await reborn.clean_staging()
    assert os.listdir(root / "staging") == []
    assert os.listdir(root / "layers") == [chain[1].removeprefix("sha256:")]


async def test_removing(root: Path, store: LayerStore) -> None:
    (chain_id,) = await keep(store, images.image([BASE]))
    await store.remove(chain_id)
    await store.remove(chain_id)
    assert not store.has(chain_id)
    assert os.listdir(root / "layers") == os.listdir(root / "staging") == []


async def test_a_removal_that_is_cut_short_is_finished_by_cleaning(
    root: Path, store: LayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (chain_id,) = await keep(store, images.image([BASE]))
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "_delete", lambda place: None)
        await store.remove(chain_id)
    assert os.listdir(root / "layers") == []
    assert len(os.listdir(root / "staging")) == 1
    await store.clean_staging()
    assert os.listdir(root / "staging") == []


async def test_a_tree_of_any_depth_is_removed(root: Path, store: LayerStore) -> None:
    order = order_of(root)
    mounted = await store.mount(order, [])
    here = os.getcwd()
    try:
        os.chdir(mounted)
        for _ in range(3000):  # deeper than any path can name, and than Python can recurse
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    await store.measure()
    await store.remove_writable(order)
    assert os.listdir(root / "containers") == os.listdir(root / "staging") == []


async def test_usage(root: Path, store: LayerStore) -> None:
    empty = store.usage()
    assert (empty.image_bytes, empty.container_bytes) == (0, 0)
    assert empty.image_path == str(root)
    layer, blob = images.layer(archive(member("f", bytes(100_000)), directory("d")))
    size = await store.unpack(layer, write_blob(store, layer, blob))
    assert size == LayerSize(size_bytes=4096 + 102_400 + 4096, inodes=3)
    order = order_of(root)
    mounted = await store.mount(order, [layer.chain_id])
    (mounted / "written").write_bytes(os.urandom(200_000))
    os.sync()
    await store.measure()
    usage = store.usage()
    assert (usage.image_bytes, usage.image_inodes) == (size.size_bytes, size.inodes)
    assert 200_000 < usage.container_bytes < 300_000
    await store.remove_writable(order)
    await store.measure()
    assert store.usage().container_bytes == 0
    assert LayerStore(root, Unpacker()).usage().image_bytes == size.size_bytes
