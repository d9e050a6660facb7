"""How registries want to be asked: challenges read, tokens fetched, and kept until they expire.

A registry answers the first request with a challenge. ``Basic`` gets user name and password, ``Bearer`` a token from
the server that the challenge names. Nothing of a credential appears in an error, and caches are keyed by a salted hash.

Source: RFC 9110 section 11; distribution-spec "token authentication"; OAuth 2.0 refresh grant as Docker uses it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import trio

from ocid.adapters.http import Broken, Client, Origin, is_loopback, split
from ocid.errors import EffectFailed, InvalidRequest
from ocid.ports import Credentials

CLIENT_ID: Final = "ocid"
TOKEN_BYTES_MAX: Final = 1 << 20
TOKEN_S_DEFAULT: Final = 60.0  # distribution-spec: without expires_in
TOKEN_S_MAX: Final = 3600.0
_CACHE_MAX: Final = 256
_MARGIN_S: Final = 10.0  # a token that ends this soon counts as ended
_TOKEN68_END: Final = "="


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """One way that a server offers to be asked."""

    scheme: str  # lower case: "bearer", "basic"
    parameters: dict[str, str]  # names in lower case


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Read one WWW-Authenticate header; what cannot be understood ends the reading, and nothing is raised.

    Source: RFC 9110 section 11.6.1.
    """
    found: list[Challenge] = []
    at, length = 0, len(header)
    while at < length:
        at = _skip(header, at, " \t,")
        word, after = _token(header, at)
        if not word:
            break
        next_at = _skip(header, after, " \t")
        if found and header[next_at : next_at + 1] == "=":  # another parameter of the same challenge
            value, at = _value(header, _skip(header, next_at + 1, " \t"))
            found[-1].parameters.setdefault(word.lower(), value)
            continue
        found.append(Challenge(scheme=word.lower(), parameters={}))
        at = next_at
        if (padded := header[at:].partition(",")[0].strip()).endswith(_TOKEN68_END) and " " not in padded:
            at += len(header[at:].partition(",")[0])  # "Negotiate YWJj==": a lone token, of no use here
    return tuple(found)


def _skip(text: str, at: int, what: str) -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _token(text: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(text) and (text[end].isalnum() or text[end] in "!#$%&'*+-.^_`|~"):
        end += 1
    return text[at:end], end


def _value(text: str, at: int) -> tuple[str, int]:
    """Read a token or a quoted string that begins at *at*."""
    if text[at : at + 1] != '"':
        return _token(text, at)
    letters: list[str] = []
    at += 1
    while at < len(text) and text[at] != '"':
        at += 1 if text[at] == "\\" else 0
        letters.append(text[at : at + 1])
        at += 1
    return "".join(letters), at + 1


def user_and_password(credentials: Credentials) -> tuple[str, str] | None:
    """Return user name and password, from their fields or from the base64 ``auth``; None when there are none.

    Raises:
        InvalidRequest: ``auth`` is not base64 of "user:password".
    """
    if credentials.username or credentials.password:
        return credentials.username, credentials.password
    if not credentials.auth:
        return None
    try:
        user, colon, password = base64.b64decode(credentials.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        user = colon = password = ""
    if not colon:
        raise InvalidRequest("registry credentials: auth is not base64 of 'user:password'")
    return user, password.rstrip("\0")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Authorizer:
    """Answers challenges, and remembers the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._salt = secrets.token_bytes(16)
        self._answers: dict[tuple[str, str, bytes], tuple[str, float]] = {}

    def known(self, origin: Origin, scope: str, credentials: Credentials | None) -> str | None:
        """Return the Authorization header that worked for the same request before, None when there is none."""
        if credentials is not None and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        answer = self._answers.get(self._key(origin, scope, credentials))
        return answer[0] if answer is not None and answer[1] > trio.current_time() else None

    async def answer(
        self, origin: Origin, challenges: tuple[Challenge, ...], scope: str, credentials: Credentials | None
    ) -> str | None:
        """Return the Authorization header that a challenge asks for, None when there is nothing to answer with.

        Raises:
            EffectFailed: the token server refuses the credentials.
            Broken: the token server does not answer.
        """
        schemes = {challenge.scheme: challenge for challenge in challenges}
        if "bearer" in schemes:
            header, lasts_s = await self._token(origin, schemes["bearer"].parameters, scope, credentials)
        elif "basic" in schemes and credentials is not None and (pair := user_and_password(credentials)) is not None:
            header, lasts_s = _basic(*pair), TOKEN_S_MAX
        else:
            return None
        while len(self._answers) >= _CACHE_MAX:
            self._answers.pop(next(iter(self._answers)))
        self._answers[self._key(origin, scope, credentials)] = header, trio.current_time() + lasts_s - _MARGIN_S
        return header

    def forget(self, origin: Origin, scope: str, credentials: Credentials | None) -> None:
        """Forget an answer that was refused."""
        self._answers.pop(self._key(origin, scope, credentials), None)

    def _key(self, origin: Origin, scope: str, credentials: Credentials | None) -> tuple[str, str, bytes]:
        raw = b"" if credentials is None else msgspec.msgpack.encode(credentials)
        return str(origin), scope, hashlib.blake2b(raw, key=self._salt, digest_size=16).digest()

    async def _token(
        self, registry: Origin, parameters: dict[str, str], scope: str, credentials: Credentials | None
    ) -> tuple[str, float]:
        realm = parameters.get("realm", "")
        server, _ = split(realm)
        if server.scheme == "http" and registry.scheme == "https" and not is_loopback(server.host):
            raise EffectFailed(f"{registry} wants tokens from {server}, which is not encrypted: refused")
        fields = {"service": parameters.get("service", ""), "scope": parameters.get("scope") or scope}
        fields = {name: value for name, value in fields.items() if value}
        headers = {"Accept": "application/json"}
        if credentials is not None and credentials.identity_token:
            fields |= {"grant_type": "refresh_token", "client_id": CLIENT_ID}
            fields["refresh_token"] = credentials.identity_token
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            request = self._client.request("POST", realm, headers, urlencode(fields).encode())
        else:
            if credentials is not None and (pair := user_and_password(credentials)) is not None:
                headers["Authorization"] = _basic(*pair)
                fields |= {"account": pair[0]}
            request = self._client.request("GET", _with_query(realm, fields), headers)
        async with request as response:
            raw = await response.read(TOKEN_BYTES_MAX)
        if response.status >= 500 or response.status == 429:
            raise Broken(f"token server {server} answers {response.status}")
        if response.status != 200:
            who = "the credentials" if credentials is not None else "a pull without credentials"
            raise EffectFailed(f"token server {server} refuses {who} for {registry} ({response.status})")
        return _read_token(raw, server)


def _with_query(url: str, fields: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *fields.items()])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _read_token(raw: bytes, server: Origin) -> tuple[str, float]:
    try:
        document: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    if isinstance(document, dict):
        token = document.get("token") or document.get("access_token")
        lasts = document.get("expires_in")
        if isinstance(token, str) and token.isascii() and token.isprintable():
            lasts_s = min(lasts, TOKEN_S_MAX) if isinstance(lasts, int | float) and lasts > 0 else TOKEN_S_DEFAULT
            return f"Bearer {token}", min(float(lasts_s), TOKEN_S_MAX)
    raise EffectFailed(f"token server {server} sent no token")
