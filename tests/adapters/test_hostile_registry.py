"""Registries and token servers that answer anything: a pull fails with an error of ours, or succeeds.

Connections are in memory and time is virtual, so a server that says nothing costs nothing.
``HYPOTHESIS_PROFILE=long`` tries hard.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from trio.testing import MockClock, memory_stream_pair

from ocid.adapters import conmon, http, start
from ocid.adapters.http import Client, Origin
from ocid.adapters.registry import HttpRegistry
from ocid.domain.manifest import host_platform
from ocid.errors import OcidError
from ocid.ports import Credentials
from tests import images

IMAGE = images.image([images.files(hello=b"world")])
DEEP = b'{"errors":' + b"[" * 60_000
ANSWERS_MAX = 8

REALMS = (
    "https://token.test/t", "http://registry.test/t", "//x", "", "ftp://x/", "https://[::1/", "https://a..b/t",
    f"https://{'a' * 64}.test/", "https://x:99999/", "https://u@x/", "https://x/?a=%ff&b", "https://é.test/", "\\",
)  # fmt: skip
LOCATIONS = (
    *REALMS,
    "/v2/app/manifests/1",
    "?",
    "#",
    "/é",
    "/a b",
    "https://x:y/",
    "\x01",
    "..",
    "http://registry.test",
)
BODIES = (
    b"", b"{}", b"[]", b"null", DEEP, b"[" * 60_000, b"\xff\xfe", b'{"errors":[{"code":"\xff","message":"x"}]}',
    b'{"errors":[{"code":"DENIED","message":"no"}]}', b'{"errors":7}', b'{"token":"t"}', b'{"token":"\xc3\xa9"}',
    b'{"token":"a\\nb"}', b'{"token":"t","expires_in":1' + b"0" * 400 + b"}", b'{"token":"t","expires_in":-1}',
    b'{"token":"t","expires_in":1e999}', b'{"token":{},"access_token":[]}',
    b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:%s","size":1e30},"layers":[]}' % (b"0" * 64),
    b'{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:1","size":-1}]}',
)  # fmt: skip
TYPES = (
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json", "text/html; é", "", "application/json",
)  # fmt: skip
HEADERS: dict[str, tuple[str, ...]] = {
    "Location": LOCATIONS,
    "WWW-Authenticate": (
        *(f'Bearer realm="{realm}",service="s",scope="é"' for realm in REALMS),
        "Basic", 'Basic realm="x"', "Bearer", 'Bearer realm="', "Negotiate YWJj==", ",,,=", "é", "Bearer realm",
    ),
    "Content-Type": TYPES,
    "Docker-Content-Digest": ("sha256:", "sha256:" + "0" * 64, "md5:1", "é"),
    "Content-Range": ("bytes 0-1/2", "bytes x", ""),
    "Content-Length": ("0", "5", "\xb2", "-1", "9" * 30, "1e3", "5, 6"),
    "Transfer-Encoding": ("chunked", "gzip"),
    "Content-Encoding": ("gzip", "x"),
}  # fmt: skip
HEADS = (b"HTTP/1.1 %d X\r\n", b"HTTP/1.0 %d\r\n", b"HTTP/1.1 %d \xff\r\n")


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One answer: mostly HTTP, with headers and a body that this client looks at."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=100), st.sampled_from((b"HTTP/1.1 200\r\n", b"SSH-2.0-x\r\n", b""))))
    body = draw(st.sampled_from((*BODIES, IMAGE.manifest)))
    status = draw(st.sampled_from((200, 200, 200, 206, 301, 307, 400, 401, 401, 403, 404, 429, 500, 100, 999)))
    lines = draw(st.sampled_from(HEADS)) % status
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=4))
    for name in names:
        lines += f"{name}: {draw(st.sampled_from(HEADERS[name]))}\r\n".encode("latin-1")
    if "Content-Length" not in names and "Transfer-Encoding" not in names:
        lines += b"Content-Length: %d\r\n" % len(body)
    return lines + b"\r\n" + body[: draw(st.sampled_from((len(body), 10)))]


CREDENTIALS = (None, Credentials(username="u", password="p"), Credentials(identity_token="é"), Credentials(auth="eA=="),
               Credentials(registry_token="t"))  # fmt: skip


async def pull(said: list[bytes], credentials: Credentials | None) -> None:
    """Resolve an image at a server that says *said*, an answer to each request, and then nothing."""
    left = iter(said)

    async def serve(stream: trio.abc.Stream) -> None:
        while await stream.receive_some():
            answer = next(left, b"")
            try:
                await stream.send_all(answer)
            except trio.BrokenResourceError:
                break
            if not answer.startswith(b"HTTP/1.1 2"):
                break
        await stream.aclose()

    async with trio.open_nursery() as nursery:

        async def connect(self: Client, origin: Origin) -> Any:
            await trio.lowlevel.checkpoint()
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http.Client, "_connect", connect)
            client = HttpRegistry(None, host=host_platform("x86_64"), stall_s=5.0)
            with suppress(OcidError):
                await client.resolve("registry.test/app:1", credentials)
            await client.close()
        nursery.cancel_scope.cancel()


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(answers(), max_size=ANSWERS_MAX), credentials=st.sampled_from(CREDENTIALS))
def test_any_answers_make_an_error_of_ours(said: list[bytes], credentials: Credentials | None) -> None:
    trio.run(pull, said, credentials, clock=MockClock(autojump_threshold=0))


CHALLENGE = b'HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm="https://t/"\r\nContent-Length: %d\r\n\r\n'


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("body", BODIES)
def test_any_body_of_any_refusal(status: int, body: bytes) -> None:
    said = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
    trio.run(pull, [said] * ANSWERS_MAX, None, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("body", BODIES)
def test_any_answer_of_a_token_server(body: bytes) -> None:
    said = [CHALLENGE % 0, b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
    trio.run(pull, said * 3, None, clock=MockClock(autojump_threshold=0))


# --- words of monitors and runtimes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["[" * 1020, '{"msg":' * 150, "{}", '{"msg":{}}', "\udcff", "1" * 1000])
def test_last_words_of_a_container_are_read_or_left(words: str) -> None:
    assert start._crun_refusal(words) == ""


@pytest.mark.parametrize(
    "raw", [b'{"pid":-1,"message":"\xe2\x98', b'{"message":"\xff"}', b"{", b"[" * 5000, b"\n", b""]
)
async def test_what_conmon_says_is_read_or_quoted(raw: bytes) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writer, raw)
        os.close(writer)
        assert (await conmon._first_line(reader)).pid == -1
    finally:
        os.close(reader)


def test_error_of_a_runtime_is_found_behind_lines_that_are_none(tmp_path: Any) -> None:
    log = tmp_path / "log"
    lines = [json.dumps({"level": "error", "msg": "the cause"}).encode(), b"[" * 30_000, b"\xff", b"null"]
    log.write_bytes(b"\n".join(lines))
    assert conmon.runtime_error(log) == "the cause"
