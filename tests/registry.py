"""A registry on loopback for tests: it serves images that tests build, and misbehaves when it is told to."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ocid.ids import Digest, digest_of
from tests.images import BuiltImage

Misdeed = tuple[str, Any]
# ("status", code) ("cut", bytes sent first) ("hang", bytes sent first) ("redirect", URL) ("content", bytes)
# ("announce", a false Content-Length) ("garbage", None) ("part", a false first byte of a Content-Range)


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Registry:
    """What is served, who may have it, and what goes wrong."""

    url: str
    host: str  # as in references
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)  # (repository, tag or digest)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    basic: tuple[str, str] | None = None  # user and password asked for
    tokens: Registry | None = None  # asks for tokens of this one
    token_users: dict[str, str] = field(default_factory=dict)  # password by user, of a token server
    refresh_tokens: set[str] = field(default_factory=set)
    open_to_all: bool = False  # a token server that gives tokens without credentials
    digest_header: str | None = None  # a false Docker-Content-Digest
    misdeeds: dict[str, list[Misdeed]] = field(default_factory=dict)  # by part of the path, done once each
    seen: list[Seen] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def put(self, repository: str, tag: str, image: BuiltImage) -> str:
        """Serve an image and return the reference to it."""
        self.put_manifest(repository, tag, image.manifest, image.media_type)
        self.blobs.update(image.blobs)
        return f"{self.host}/{repository}:{tag}"

    def put_manifest(self, repository: str, tag: str, raw: bytes, media_type: str) -> None:
        """Serve a manifest or an index, by tag and by digest."""
        for name in (tag, str(digest_of(raw))):
            self.manifests[repository, name] = raw, media_type

    def paths(self, part: str = "") -> list[str]:
        """List the paths asked for that hold *part*."""
        return [one.path for one in self.seen if part in one.path]


@contextmanager
def registry(*, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[Registry]:
    """Run a registry while the block lasts."""
    server = _Server((address, 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    host = f"{address}:{server.server_address[1]}"
    one = Registry(url=f"{'https' if tls else 'http'}://{host}", host=host)
    server.registry = one
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: Registry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        one = self.server.registry
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        one.seen.append(Seen(self.command, url.path, parse_qs(url.query), headers, body))
        misdeed = next((done.pop(0) for part, done in one.misdeeds.items() if part in url.path and done), None)
        if misdeed is not None and misdeed[0] in ("status", "redirect", "garbage"):
            self._misbehave(misdeed)
        elif url.path == "/token":
            self._token(one, parse_qs(url.query), body)
        elif not self._welcome(one, headers):
            self._challenge(one)
        else:
            self._content(one, url.path, misdeed)

    def _misbehave(self, misdeed: Misdeed) -> None:
        what, how = misdeed
        if what == "status":
            errors = {"errors": [{"code": "TROUBLE", "message": f"trouble {self.headers.get('authorization', '')}"}]}
            self._answer(how, json.dumps(errors).encode())
        elif what == "redirect":
            self._answer(307, b"", {"Location": how})
        else:
            self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n" * 3)
            self.close_connection = True

    def _welcome(self, one: Registry, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "")
        if one.basic is not None:
            return given == "Basic " + base64.b64encode(":".join(one.basic).encode()).decode()
        return one.tokens is None or given == "Bearer good-token"

    def _challenge(self, one: Registry) -> None:
        if one.basic is not None:
            header = 'Basic realm="test, registry"'
        else:
            assert one.tokens is not None, "only these two ask for anything"
            header = f'Bearer realm="{one.tokens.url}/token?x=1",service="test",scope="repository:team/app:pull"'
        self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": header})

    def _token(self, one: Registry, query: dict[str, list[str]], body: bytes) -> None:
        given = self.headers.get("authorization", "")
        form = parse_qs(body.decode())
        allowed = one.open_to_all
        if given.startswith("Basic "):
            user, _, password = base64.b64decode(given[6:]).decode().partition(":")
            allowed = one.token_users.get(user) == password
        elif form.get("grant_type") == ["refresh_token"]:
            allowed = form["refresh_token"][0] in one.refresh_tokens
        if allowed:
            self._answer(200, json.dumps({"token": "good-token", "expires_in": 300}).encode())
        else:
            self._answer(401, f"no: {given}".encode())

    def _content(self, one: Registry, path: str, misdeed: Misdeed | None) -> None:
        parts = path.removeprefix("/v2/").split("/")
        repository, kind, name = "/".join(parts[:-2]), parts[-2], parts[-1]
        if kind == "manifests" and (repository, name) in one.manifests:
            raw, media_type = one.manifests[repository, name]
            digest = one.digest_header or digest_of(raw)
            self._answer(200, raw, {"Content-Type": media_type, "Docker-Content-Digest": digest}, misdeed)
        elif kind == "blobs" and Digest(name) in one.blobs:
            raw = one.blobs[Digest(name)]
            wanted = self.headers.get("range")
            if wanted is not None and wanted.startswith("bytes="):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if misdeed is not None and misdeed[0] == "part":
                    start = misdeed[1]
                content_range = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
                self._answer(206, raw[start:], {"Content-Range": content_range}, misdeed)
            else:
                self._answer(200, raw, {}, misdeed)
        else:
            self._answer(404, b'{"errors": [{"code": "UNKNOWN", "message": "unknown"}]}')

    def _answer(
        self, status: int, raw: bytes, headers: dict[str, str] | None = None, misdeed: Misdeed | None = None
    ) -> None:
        what, how = misdeed or ("", None)
        raw = how if what == "content" else raw
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(how if what == "announce" else len(raw)))
        self.end_headers()
        self.wfile.write(raw[:how] if what in ("cut", "hang") else raw)
        self.wfile.flush()
        if what == "hang":
            self.server.registry.stop.wait(20)
        if what in ("cut", "hang", "announce"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
