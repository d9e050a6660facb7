"""Pulling from registries that behave, and from those that do not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters.registry import HttpRegistry, RegistrySettings
from ocid.errors import EffectFailed, NotFound, OcidError, Unavailable, Unsupported
from ocid.ids import digest_of
from ocid.ports import Credentials
from tests import images
from tests.host import registries
from tests.host.nodes import SLOW
from tests.host.registries import ALICE, LARGE, ONE_LAYER, SECRET, client_of, fetch
from tests.registry import Registry, registry

pytestmark = pytest.mark.host
client, other, server, soon = registries.client, registries.other, registries.server, registries.soon  # fixtures

# --- what is served --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("docker", "packing"), [(False, "+gzip"), (False, "+zstd"), (False, ""), (True, ".gzip"), (True, "")]
)
async def test_an_image_is_resolved_and_its_layers_come(
    server: Registry, client: HttpRegistry, tmp_path: Path, docker: bool, packing: str
) -> None:
    image = images.image([images.files(a=b"1"), images.files(b=b"2")], packings=[packing] * 2, docker=docker)
    reference = server.put("team/app", "1", image)
    resolved = await client.resolve(reference, None)
    assert resolved.manifest == image.manifest
    assert resolved.config == image.config
    assert resolved.image_id == image.image_id
    assert resolved.layers == image.layers
    assert resolved.endpoint == server.url
    assert resolved.index is None
    for layer in resolved.layers:
        into = tmp_path / layer.blob
        counted: list[int] = []
        await fetch(client, reference, layer, into, progress=counted.append)
        assert into.read_bytes() == image.blobs[layer.blob]
        assert sum(counted) == layer.size_bytes
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_an_index_gives_the_image_for_this_platform(server: Registry, client: HttpRegistry, docker: bool) -> None:
    wrong = images.image([images.files(x=b"arm")], architecture="arm64", docker=docker)
    right = images.image([images.files(x=b"amd")], docker=docker)
    for image in (wrong, right):
        server.put("app", str(image.digest), image)
    raw, media_type = images.index((wrong, "linux", "arm64"), (right, "linux", "amd64"), docker=docker)
    server.put_manifest("app", "1", raw, media_type)
    resolved = await client.resolve(f"{server.host}/app:1", None)
    assert resolved.image_id == right.image_id
    assert (resolved.index, resolved.index_digest) == (raw, digest_of(raw))
    again = await client.resolve(f"{server.host}/app@{digest_of(raw)}", None)
    assert again == resolved


async def test_by_digest_another_content_is_refused(server: Registry, client: HttpRegistry) -> None:
    server.put("app", "1", ONE_LAYER)
    reference = f"{server.host}/app@{ONE_LAYER.digest}"
    assert (await client.resolve(reference, None)).image_id == ONE_LAYER.image_id
    server.manifests["app", ONE_LAYER.digest] = LARGE.manifest, LARGE.media_type
    with pytest.raises(EffectFailed, match=f"{LARGE.digest}.*wanted {ONE_LAYER.digest}"):
        await client.resolve(reference, None)


async def test_a_blob_that_is_there_is_not_fetched_again(
    server: Registry, client: HttpRegistry, tmp_path: Path
) -> None:
    reference = server.put("app", "1", ONE_LAYER)
    layer = ONE_LAYER.layers[0]
    into = tmp_path / "blob"
    into.write_bytes(bytes(layer.size_bytes))  # of the right size, but not the blob
    await fetch(client, reference, layer, into)
    await fetch(client, reference, layer, into)
    assert len(server.paths("/blobs/")) == 1


async def test_downloads_at_a_time_are_limited(server: Registry, tmp_path: Path) -> None:
    client = client_of(parallel=2, stall_s=0.3 * SLOW)
    image = images.image([images.files(x=bytes([number])) for number in range(4)])
    reference = server.put("app", "1", image)
    for layer in image.layers:
        server.misdeeds[layer.blob] = [("hang", 1)]
    with trio.move_on_after(0.2 * SLOW):
        async with trio.open_nursery() as nursery:
            for layer in image.layers:
                nursery.start_soon(lambda layer=layer: fetch(client, reference, layer, tmp_path / layer.blob))
    assert len(server.paths("/blobs/")) == 2
    assert os.listdir(tmp_path) == []
    await client.close()


# --- what is refused -------------------------------------------------------------------------------------------------


async def test_an_unknown_image_is_not_found(server: Registry, client: HttpRegistry) -> None:
    with pytest.raises(NotFound, match=f"image '{server.host}/nothing:1' not found"):
        await client.resolve(f"{server.host}/nothing:1", None)


async def test_an_image_for_another_platform_is_not_found(server: Registry, client: HttpRegistry) -> None:
    arm = images.image([images.files(x=b"arm")], architecture="arm64")
    raw, media_type = images.index((arm, "linux", "arm64"))
    server.put_manifest("app", "1", raw, media_type)
    with pytest.raises(NotFound, match=r"linux/amd64.*linux/arm64"):
        await client.resolve(f"{server.host}/app:1", None)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"<html>log in</html>", EffectFailed),
        (b'{"schemaVersion": 1}', Unsupported),
        (b" " * (5 << 20), OcidError),
    ],
)
async def test_what_is_no_manifest_is_refused(
    server: Registry, client: HttpRegistry, raw: bytes, error: type[OcidError]
) -> None:
    server.put_manifest("app", "1", raw, "text/html")
    with pytest.raises(error):
        await client.resolve(f"{server.host}/app:1", None)


async def test_a_false_digest_header_is_refused(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", ONE_LAYER)
    server.digest_header = digest_of(b"lie")
    with pytest.raises(EffectFailed, match=f"wanted {digest_of(b'lie')}"):
        await client.resolve(reference, None)


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (("content", bytes(len(LARGE.blobs[LARGE.layers[0].blob]))), "push the image again"),
        (("content", b"short"), "its manifest says"),
        (("content", bytes(700_000)), "its manifest says"),
        (("status", 403), "check the pull secret"),
        (("status", 400), "400"),
    ],
)
async def test_a_registry_that_lies_or_refuses_is_found_out_and_nothing_stays(
    server: Registry, client: HttpRegistry, tmp_path: Path, misdeed: tuple[str, Any], words: str
) -> None:
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [misdeed]
    with pytest.raises(EffectFailed, match=words) as caught:
        await fetch(client, reference, layer, tmp_path / "blob", credentials=ALICE)
    assert layer.blob in caught.value.message
    assert server.url in caught.value.message
    assert os.listdir(tmp_path) == []
    assert len(server.paths(layer.blob)) == 1


async def test_a_config_with_another_digest_is_refused(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", ONE_LAYER)
    server.blobs[digest_of(ONE_LAYER.config)] = bytes(len(ONE_LAYER.config))
    with pytest.raises(EffectFailed, match="refused"):
        await client.resolve(reference, None)


# --- what breaks on the way ------------------------------------------------------------------------------------------


async def test_a_cut_download_goes_on_where_it_broke(server: Registry, client: HttpRegistry, tmp_path: Path) -> None:
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("cut", 200_000), ("status", 503), ("cut", 200_000), ("cut", 0)]
    counted: list[int] = []
    await fetch(client, reference, layer, tmp_path / "blob", progress=counted.append)
    assert (tmp_path / "blob").read_bytes() == LARGE.blobs[layer.blob]
    assert sum(counted) == layer.size_bytes
    ranges = [one.headers.get("range") for one in server.seen if layer.blob in one.path]
    assert ranges == [None, "bytes=200000-", "bytes=200000-", "bytes=400000-", "bytes=400000-"]


async def test_a_registry_that_cannot_go_on_is_asked_for_all_again(
    server: Registry, client: HttpRegistry, tmp_path: Path
) -> None:
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("cut", 200_000), ("part", 0), ("cut", 300_000), ("part", 0)]
    counted: list[int] = []
    await fetch(client, reference, layer, tmp_path / "blob", progress=counted.append)
    assert (tmp_path / "blob").read_bytes() == LARGE.blobs[layer.blob]
    assert sum(counted) == layer.size_bytes


async def test_a_registry_that_stays_broken_is_given_up(server: Registry, client: HttpRegistry, tmp_path: Path) -> None:
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("status", 500)] * 9
    with pytest.raises(Unavailable, match=r"500.*TROUBLE.*tried 4 times"):
        await fetch(client, reference, layer, tmp_path / "blob")
    server.misdeeds["/manifests/"] = [("garbage", None)] * 9
    with pytest.raises(Unavailable, match="no HTTP"):
        await client.resolve(reference, None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("sent", [0, 1000])
async def test_a_registry_that_hangs_is_left_in_time(server: Registry, tmp_path: Path, sent: int) -> None:
    client = client_of(stall_s=0.2)
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("hang", sent)] * 9
    with trio.fail_after(5 * SLOW), pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ sends nothing for 0\.2 s"):
        await fetch(client, reference, layer, tmp_path / "blob")
    assert os.listdir(tmp_path) == []
    await client.close()


async def test_a_cancelled_download_leaves_no_file(server: Registry, client: HttpRegistry, tmp_path: Path) -> None:
    reference = server.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("hang", 1000)]
    with trio.move_on_after(0.2) as scope:
        await fetch(client, reference, layer, tmp_path / "blob")
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []


async def test_a_registry_that_nobody_runs_is_unavailable(client: HttpRegistry) -> None:
    with registry() as gone:
        host = gone.host
    with trio.fail_after(10 * SLOW), pytest.raises(Unavailable, match=host):
        await client.resolve(f"{host}/app:1", None)


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", ONE_LAYER)
    server.misdeeds["/blobs/"] = [("announce", len(ONE_LAYER.config))]  # closes after a whole reply
    for _ in range(2):
        assert (await client.resolve(reference, None)).image_id == ONE_LAYER.image_id


# --- mirrors and redirects -------------------------------------------------------------------------------------------


async def test_mirrors_are_asked_first_and_get_no_credentials(server: Registry, other: Registry) -> None:
    client = client_of({"docker.io": RegistrySettings(mirrors=(server.url, other.url))})
    other.put("library/app", "1", ONE_LAYER)
    resolved = await client.resolve("app:1", ALICE)
    assert resolved.endpoint == other.url
    assert [one.query for one in server.seen] == [{"ns": ["docker.io"]}]
    assert not any("authorization" in one.headers for one in (*server.seen, *other.seen))
    await client.close()


async def test_a_mirror_that_fails_midway_is_replaced_by_the_origin(
    server: Registry, other: Registry, tmp_path: Path
) -> None:
    client = client_of({server.host: RegistrySettings(mirrors=(other.url,))})
    reference = server.put("app", "1", LARGE)
    other.put("app", "1", LARGE)
    layer = LARGE.layers[0]
    other.misdeeds[layer.blob] = [("cut", 300_000), ("content", b"lies")]
    assert (await client.resolve(reference, None)).endpoint == other.url
    counted: list[int] = []
    await fetch(client, reference, layer, tmp_path / "blob", progress=counted.append)
    assert sum(counted) == layer.size_bytes
    assert (tmp_path / "blob").read_bytes() == LARGE.blobs[layer.blob]
    assert len(server.paths(layer.blob)) == 1
    assert (await client.resolve(reference, None)).endpoint == other.url, "a tag is asked for in the order configured"
    await client.close()


async def test_when_nobody_answers_the_error_names_all(tmp_path: Path) -> None:
    with registry() as one, registry() as two:
        gone, mirror = one.host, two.host
    client = client_of({gone: RegistrySettings(mirrors=(f"http://{mirror}",), plain_http=True)})
    with pytest.raises(Unavailable, match=f"{gone}.*{mirror}"):
        await client.resolve(f"{gone}/app:1", None)
    await client.close()


async def test_a_redirect_is_followed_without_credentials(
    server: Registry, other: Registry, client: HttpRegistry, tmp_path: Path
) -> None:
    reference = server.put("app", "1", LARGE)
    other.put("app", "1", LARGE)
    server.basic = ("alice", SECRET)
    layer = LARGE.layers[0]
    server.misdeeds[layer.blob] = [("redirect", f"{other.url}/v2/app/blobs/{layer.blob}?signature=1")]
    await client.resolve(reference, ALICE)
    await fetch(client, reference, layer, tmp_path / "blob", credentials=ALICE)
    assert (tmp_path / "blob").read_bytes() == LARGE.blobs[layer.blob]
    assert server.seen[-1].headers["authorization"].startswith("Basic ")
    assert "authorization" not in other.seen[-1].headers


@pytest.mark.parametrize(
    "location",
    ["/v2/\xe9", "http://\xe9.test/", "http://a..b/", f"http://{'a' * 64}.test/", "http://[::1/"],
)
async def test_a_redirect_to_what_is_no_url_is_refused(server: Registry, client: HttpRegistry, location: str) -> None:
    reference = server.put("app", "1", LARGE)
    server.misdeeds["/manifests/"] = [("redirect", location)] * 3
    with pytest.raises(EffectFailed, match=r"no URL|cannot be written"):
        await client.resolve(reference, None)


async def test_a_token_that_no_header_can_hold_is_refused(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", LARGE)
    with pytest.raises(EffectFailed, match="cannot be written"):
        await client.resolve(reference, Credentials(registry_token="t\xf6ken"))


async def test_endless_redirects_end(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", LARGE)
    server.misdeeds["/manifests/"] = [("redirect", "/v2/app/manifests/1")] * 20
    with pytest.raises(EffectFailed, match="redirects more than"):
        await client.resolve(reference, None)
