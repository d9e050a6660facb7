"""What a request asks for: a session over SPDY/3.1 or WebSocket, and in which of their subprotocols. No I/O.

Source: RFC 9110 7.8 "Upgrade"; RFC 6455 4.2; for the subprotocols, Kubernetes' client-go and cri-streaming.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import h11
import msgspec

from ocid.ports.sessions import Kind
from ocid.streaming.websocket import accept_key

TOKEN_CHARACTERS_MAX: Final = 128
_PROTOCOL_HEADER: Final = "X-Stream-Protocol-Version"
_ACCEPTED_HEADER: Final = "X-Accepted-Stream-Protocol-Versions"


class Carrier(StrEnum):
    """What carries the streams. The value goes into the Upgrade header."""

    SPDY = "SPDY/3.1"
    WEBSOCKET = "websocket"


V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
V3: Final = "v3.channel.k8s.io"
V2: Final = "v2.channel.k8s.io"
V1: Final = "channel.k8s.io"
V4_BASE64: Final = "v4.base64.channel.k8s.io"
V1_BASE64: Final = "base64.channel.k8s.io"
FORWARD: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
NONE: Final = ""  # the client named none

STATUS_PROTOCOLS: Final = frozenset({V5, V4, V4_BASE64})  # tell exit codes; the others only words
RESIZE_PROTOCOLS: Final = frozenset({V4, V3})  # of SPDY, where a terminal has one more stream
BASE64_PROTOCOLS: Final = frozenset({V4_BASE64, V1_BASE64})

_COMMAND: Final = {
    Carrier.SPDY: (V4, V3, V2, V1, NONE),
    Carrier.WEBSOCKET: (V5, V4, V4_BASE64, V1, V1_BASE64, NONE),
}
_SUPPORTED: Final[dict[Kind, dict[Carrier, tuple[str, ...]]]] = {
    Kind.EXEC: _COMMAND,
    Kind.ATTACH: _COMMAND,
    Kind.FORWARD: {Carrier.SPDY: (FORWARD,), Carrier.WEBSOCKET: (TUNNEL, V4, V4_BASE64, NONE)},
}


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is in order; whether its token is good is not known yet."""

    kind: Kind
    token: str
    carrier: Carrier
    protocol: str  # one of the names above
    headers: list[tuple[str, str]]  # of the 101 response

    def __repr__(self) -> str:
        return f"Upgrade({self.kind}, {self.carrier}, {self.protocol!r})"  # without the token


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is not."""

    status: int
    message: str
    headers: list[tuple[str, str]] = []


NOT_FOUND: Final = Refusal(status=404, message="not found")


def decide(request: h11.Request) -> Upgrade | Refusal:
    """Say what *request* asks for."""
    headers = _Headers(request)
    path = _path(request.target.decode("ascii", "replace"))
    parts = path.split("/")
    if len(parts) != 3 or parts[0] or parts[1] not in set(Kind) or not 0 < len(parts[2]) <= TOKEN_CHARACTERS_MAX:
        return NOT_FOUND
    if request.method not in (b"GET", b"POST"):
        return Refusal(status=405, message="wanted GET or POST", headers=[("Allow", "GET, POST")])
    if headers.listed("content-length") not in ([], ["0"]) or headers.listed("transfer-encoding"):
        return Refusal(status=400, message="wanted a request without a body")
    if request.http_version != b"1.1" or "upgrade" not in [one.lower() for one in headers.listed("connection")]:
        return _no_upgrade()
    offered = [one.lower() for one in headers.listed("upgrade")]
    kind = Kind(parts[1])
    if "websocket" in offered:
        return _websocket(request, headers, kind, parts[2])
    if Carrier.SPDY.lower() in offered:
        return _spdy(headers, kind, parts[2])
    return _no_upgrade()


def _no_upgrade() -> Refusal:
    return Refusal(
        status=426,
        message="wanted an upgrade to SPDY/3.1 or websocket",
        headers=[("Upgrade", "SPDY/3.1, websocket")],
    )


def _spdy(headers: _Headers, kind: Kind, token: str) -> Upgrade | Refusal:
    supported = _SUPPORTED[kind][Carrier.SPDY]
    offered = headers.listed(_PROTOCOL_HEADER.lower())
    chosen = _choose(offered, supported)
    if chosen is None:
        accepted = [(_ACCEPTED_HEADER, one) for one in supported if one]
        message = f"client offers {', '.join(offered)[:200] or 'no protocol'}; wanted one of {_names(supported)}"
        return Refusal(status=403, message=message, headers=accepted)
    answer = [("Connection", "Upgrade"), ("Upgrade", str(Carrier.SPDY))]
    answer += [(_PROTOCOL_HEADER, chosen)] if chosen else []
    return Upgrade(kind=kind, token=token, carrier=Carrier.SPDY, protocol=chosen, headers=answer)


def _websocket(request: h11.Request, headers: _Headers, kind: Kind, token: str) -> Upgrade | Refusal:
    if request.method != b"GET":
        return Refusal(status=405, message="wanted GET", headers=[("Allow", "GET")])
    if headers.listed("sec-websocket-version") != ["13"]:
        return Refusal(status=426, message="wanted version 13", headers=[("Sec-WebSocket-Version", "13")])
    keys = headers.listed("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(status=400, message="wanted one Sec-WebSocket-Key of 16 bytes in base64")
    supported = _SUPPORTED[kind][Carrier.WEBSOCKET]
    offered = headers.listed("sec-websocket-protocol")
    chosen = _choose(offered, supported)
    if chosen is None:
        message = f"client offers {', '.join(offered)[:200]}; wanted one of {_names(supported)}"
        return Refusal(status=403, message=message)
    answer = [("Connection", "Upgrade"), ("Upgrade", str(Carrier.WEBSOCKET))]
    answer += [("Sec-WebSocket-Accept", accept_key(keys[0]))]
    answer += [("Sec-WebSocket-Protocol", chosen)] if chosen else []
    return Upgrade(kind=kind, token=token, carrier=Carrier.WEBSOCKET, protocol=chosen, headers=answer)


def _choose(offered: list[str], supported: tuple[str, ...]) -> str | None:
    """Return the first that the client offers and we have."""
    return next((one for one in offered or [NONE] if one in supported), None)


def _names(supported: tuple[str, ...]) -> str:
    return ", ".join(one for one in supported if one)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _path(target: str) -> str:
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        return urlsplit(target).path  # RFC 9112 3.2.2: a server takes the absolute form too
    except ValueError:
        return ""


class _Headers:
    """The headers of a request, comma-separated ones taken apart."""

    def __init__(self, request: h11.Request) -> None:
        self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]

    def listed(self, name: str) -> list[str]:
        """Return the members of all headers of this name, which is in lower case."""
        values = [value for key, value in self._headers if key == name]
        return [part for value in values for one in value.split(",") if (part := one.strip())]
