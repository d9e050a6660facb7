"""Where a repository is asked for: mirrors and the registry itself, and how each of them is reached."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

import msgspec

from ocid.adapters.http import Broken, Client, Origin, is_loopback, split
from ocid.domain.reference import DEFAULT_DOMAIN, Reference
from ocid.errors import EffectFailed

_DOCKER_HUB: Final = "registry-1.docker.io"
_REMEMBERED_MAX: Final = 256


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one registry is reached. Configured by its host, as in references: ``docker.io``, ``127.0.0.1:5000``."""

    mirrors: tuple[str, ...] = ()  # URLs, asked in this order before the registry itself
    plain_http: bool = False
    insecure_tls: bool = False  # takes any certificate
    ca_file: str = ""  # PEM; instead of the system's certificates
    client_cert: str = ""  # PEM, with its key in client_key or in the same file
    client_key: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One place to ask: a mirror or the origin."""

    origin: Origin
    base: str  # path before /v2
    mirror: bool
    query: str  # tells a mirror of many registries which one is meant


class Endpoints:
    """The configured registries, and what was learnt about them."""

    def __init__(self, settings: Mapping[str, RegistrySettings], stall_s: float) -> None:
        """*settings* by registry host; the key ``*`` is for all that have none of their own."""
        self._settings = dict(settings)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.client = Client(self._tls, stall_s=stall_s)
        self._unencrypted: set[str] = set()  # loopback registries that turned out to speak plain HTTP
        self._answered: dict[str, Endpoint] = {}  # by repository

    def note_answer(self, name: Reference, endpoint: Endpoint) -> None:
        """Remember who served a repository."""
        if len(self._answered) >= _REMEMBERED_MAX:
            self._answered.clear()
        self._answered[name.repository] = endpoint

    async def of(self, name: Reference, *, last_first: bool) -> list[Endpoint]:
        """Return where to ask: mirrors, then the origin.

        With *last_first* whoever answered last for this repository comes before them all: it has the blobs that its
        manifest names.
        """
        settings = self._settings_of(name.domain)
        found: list[Endpoint] = []
        for url in settings.mirrors:
            origin, base = split(url if "://" in url else f"https://{url}")
            query = urlencode({"ns": name.domain})
            found.append(Endpoint(origin=origin, base=base.rstrip("/"), mirror=True, query=f"?{query}"))
        host = _DOCKER_HUB if name.domain == DEFAULT_DOMAIN else name.domain
        origin = await self._origin(host, settings)
        found.append(Endpoint(origin=origin, base="", mirror=False, query=""))
        last = self._answered.get(name.repository) if last_first else None
        return sorted(found, key=lambda endpoint: endpoint != last)

    async def _origin(self, host: str, settings: RegistrySettings) -> Origin:
        secure, _ = split(f"https://{host}")
        plain, _ = split(f"http://{host}")
        if settings.plain_http:
            return plain
        if not is_loopback(secure.host) or settings.ca_file or settings.insecure_tls:
            return secure
        if host not in self._unencrypted:
            try:
                if await self.client.speaks_tls(secure):
                    return secure
            except Broken:
                return secure  # nobody listens now; whoever asks next finds out
            self._unencrypted.add(host)
        return plain

    def _settings_of(self, host: str) -> RegistrySettings:
        return self._settings.get(host) or self._settings.get("*") or RegistrySettings()

    def _tls(self, origin: Origin) -> ssl.SSLContext:
        host = DEFAULT_DOMAIN if origin.host == _DOCKER_HUB else origin.authority
        if host not in self._contexts:
            self._contexts[host] = _context(self._settings_of(host), host)
        return self._contexts[host]


def _context(settings: RegistrySettings, host: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert, settings.client_key or None)
    except (OSError, ssl.SSLError) as error:
        raise EffectFailed(f"certificates configured for registry {host}: {error}") from error
    if settings.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
