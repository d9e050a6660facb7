"""Who may pull: credentials in all their forms, challenges, and certificates."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ocid.adapters.auth import parse_challenges
from ocid.adapters.registry import HttpRegistry, RegistrySettings
from ocid.errors import EffectFailed, InvalidRequest
from ocid.ports import Credentials
from tests.host import registries
from tests.host.registries import ALICE, ONE_LAYER, SECRET, client_of, fetch
from tests.registry import Registry, registry

pytestmark = pytest.mark.host
client, other, server, soon = registries.client, registries.other, registries.server, registries.soon  # fixtures

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
