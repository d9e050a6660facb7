"""Pulling from registries that behave, and from those that do not."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.adapters import registry as adapter
from ocid.adapters.auth import parse_challenges
from ocid.adapters.registry import HttpRegistry, RegistrySettings
from ocid.domain.manifest import host_platform
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError, Unavailable, Unsupported
from ocid.ids import digest_of
from ocid.ports import Credentials, LayerBlob
from tests import images
from tests.registry import Registry, registry

pytestmark = pytest.mark.host

ONE_LAYER = images.image([images.files(hello=b"world")])
LARGE = images.image([images.files(large=os.urandom(600_000))], packings=[""])
SECRET = "hunter2-secret"
ALICE = Credentials(username="alice", password=SECRET)


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Registry]:
    with registry() as one:
        yield one


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "BACK_OFF_S", (0.001,))


@pytest.fixture
async def client() -> AsyncIterator[HttpRegistry]:
    one = client_of()
    yield one
    await one.close()


def client_of(settings: dict[str, RegistrySettings] | None = None, **more: Any) -> HttpRegistry:
    return HttpRegistry(settings, **{"host": host_platform("x86_64"), "stall_s": 5.0, **more})


def no_progress(_: int) -> None:
    pass


async def fetch(client: HttpRegistry, reference: str, blob: LayerBlob, into: Path, **more: Any) -> None:
    await client.fetch(reference, more.get("credentials"), blob, into, more.get("progress", no_progress))


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
    client = client_of(parallel=2, stall_s=0.3)
    image = images.image([images.files(x=bytes([number])) for number in range(4)])
    reference = server.put("app", "1", image)
    for layer in image.layers:
        server.misdeeds[layer.blob] = [("hang", 1)]
    with trio.move_on_after(0.2):
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
    with trio.fail_after(5), pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ sends nothing for 0\.2 s"):
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
    with trio.fail_after(10), pytest.raises(Unavailable, match=host):
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


async def test_endless_redirects_end(server: Registry, client: HttpRegistry) -> None:
    reference = server.put("app", "1", LARGE)
    server.misdeeds["/manifests/"] = [("redirect", "/v2/app/manifests/1")] * 20
    with pytest.raises(EffectFailed, match="redirects more than"):
        await client.resolve(reference, None)


# --- credentials -----------------------------------------------------------------------------------------------------

BASIC_FORMS = {
    "fields": ALICE,
    "auth": Credentials(auth=base64.b64encode(f"alice:{SECRET}".encode()).decode()),
}


@pytest.mark.parametrize("form", BASIC_FORMS)
async def test_basic(server: Registry, client: HttpRegistry, form: str) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.basic = ("alice", SECRET)
    await client.resolve(reference, BASIC_FORMS[form])
    assert sum("authorization" not in one.headers for one in server.seen) == 1


BEARER_FORMS = {**BASIC_FORMS, "identity token": Credentials(identity_token="refresh-me"), "nothing": None}


@pytest.mark.parametrize("form", BEARER_FORMS)
async def test_bearer(server: Registry, other: Registry, client: HttpRegistry, form: str) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.tokens = other
    other.token_users = {"alice": SECRET}
    other.refresh_tokens = {"refresh-me"}
    other.open_to_all = form == "nothing"
    for _ in range(2):
        await client.resolve(reference, BEARER_FORMS[form])
    assert len(other.paths("/token")) == 1, "the token is kept"
    asked = other.seen[0]
    if form == "identity token":
        assert asked.method == "POST"
        assert b"scope=repository%3Ateam%2Fapp%3Apull" in asked.body
    else:
        wanted = {"x": ["1"], "service": ["test"], "scope": ["repository:team/app:pull"]}
        assert wanted.items() <= asked.query.items()


async def test_a_registry_token_is_sent_as_it_is(server: Registry, other: Registry, client: HttpRegistry) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.tokens = other
    await client.resolve(reference, Credentials(registry_token="good-token"))
    assert other.seen == []
    with pytest.raises(EffectFailed, match="401"):
        await client.resolve(reference, Credentials(registry_token="bad-token"))


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("credentials", [Credentials(username="alice", password="wrong-" + SECRET), None])
async def test_wrong_credentials_are_refused_at_once_and_appear_nowhere(
    server: Registry, other: Registry, client: HttpRegistry, scheme: str, credentials: Credentials | None
) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    if scheme == "basic":
        server.basic = ("alice", SECRET)
    else:
        server.tokens = other
        other.token_users = {"alice": SECRET}
    began = trio.current_time()
    with pytest.raises(EffectFailed) as caught:
        await client.resolve(reference, credentials)
    assert trio.current_time() - began < 0.5
    assert len(server.seen) <= 2
    assert SECRET not in repr(caught.value)
    assert base64.b64encode(f"alice:wrong-{SECRET}".encode()).decode() not in repr(caught.value)
    assert SECRET not in repr(client.__dict__)


async def test_tokens_of_one_user_do_not_serve_another(server: Registry, other: Registry, client: HttpRegistry) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.tokens = other
    other.token_users = {"alice": SECRET}
    await client.resolve(reference, ALICE)
    for stranger in (None, Credentials(username="bob", password="guess")):
        with pytest.raises(EffectFailed):
            await client.resolve(reference, stranger)


async def test_a_registry_that_repeats_a_secret_is_not_quoted(
    server: Registry, client: HttpRegistry, tmp_path: Path
) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.basic = ("alice", SECRET)
    await client.resolve(reference, ALICE)
    blob = ONE_LAYER.layers[0]
    server.misdeeds[blob.blob] = [("status", 403)]
    with pytest.raises(EffectFailed, match="TROUBLE") as caught:
        await fetch(client, reference, blob, tmp_path / "blob", credentials=ALICE)
    assert base64.b64encode(f"alice:{SECRET}".encode()).decode() not in caught.value.message


@pytest.mark.parametrize("auth", ["!!!", base64.b64encode(b"no colon").decode()])
async def test_an_auth_field_that_is_no_base64_pair_is_refused(
    server: Registry, client: HttpRegistry, auth: str
) -> None:
    reference = server.put("team/app", "1", ONE_LAYER)
    server.basic = ("alice", SECRET)
    with pytest.raises(InvalidRequest, match="base64"):
        await client.resolve(reference, Credentials(auth=auth))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://auth/token",service="reg.io",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://auth/token", "service": "reg.io", "scope": "repository:a:pull,push"})],
        ),
        (
            'Basic realm="x", Bearer realm=y , service = "z"',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        ('Bearer realm="quoted \\" inside"', [("bearer", {"realm": 'quoted " inside'})]),
        ("Negotiate YWJj==, Basic realm=r", [("negotiate", {}), ("basic", {"realm": "r"})]),
        ("Basic", [("basic", {})]),
        ("", []),
        (",,,", []),
        ('Bearer realm="never closed', [("bearer", {"realm": "never closed"})]),
        ("=x", []),
        ('Bearer realm="\\', [("bearer", {"realm": ""})]),
    ],
)
async def test_challenges(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.parameters) for one in parse_challenges(header)] == found


# --- encryption ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, with its key."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(path), "-keyout", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    text = path.read_text()
    assert "PRIVATE KEY" in text or (path.with_suffix(".key")).exists()
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Registry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with registry(tls=context) as one:
        yield one


@pytest.mark.parametrize("how", ["ca_file", "insecure_tls"])
async def test_an_encrypted_registry(secure: Registry, certificate: Path, how: str) -> None:
    value = {"ca_file": str(certificate)} if how == "ca_file" else {"insecure_tls": True}
    client = client_of({secure.host: RegistrySettings(**value)})
    reference = secure.put("app", "1", ONE_LAYER)
    assert (await client.resolve(reference, None)).endpoint == secure.url
    await client.close()


async def test_a_certificate_that_nobody_trusts_is_refused(secure: Registry, client: HttpRegistry) -> None:
    reference = secure.put("app", "1", ONE_LAYER)
    with pytest.raises(EffectFailed, match=r"certificate of https://127\.0\.0\.1.*not trusted.*ca_file"):
        await client.resolve(reference, None)
    assert secure.seen == []


async def test_an_encrypted_registry_does_not_redirect_to_an_open_one(
    secure: Registry, other: Registry, certificate: Path
) -> None:
    client = client_of({secure.host: RegistrySettings(ca_file=str(certificate))})
    reference = secure.put("app", "1", ONE_LAYER)
    secure.misdeeds["/manifests/"] = [("redirect", f"{other.url}/v2/app/manifests/1")]
    with pytest.raises(EffectFailed, match="not encrypted"):
        await client.resolve(reference, None)
    assert other.seen == []
    await client.close()
