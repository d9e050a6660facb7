"""Pulls from registries and their mirrors: the ``Registry`` port over HTTP.

A mirror is asked before the origin, and any trouble with it only means that the next one is asked. Credentials belong
to the origin and go to no mirror. What breaks in transit is tried again where it broke off; what is refused is not.

Source: OCI distribution-spec "Pull"; Docker registry HTTP API V2.
"""

from __future__ import annotations

import platform
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from ocid.adapters.auth import Authorizer, parse_challenges
from ocid.adapters.endpoints import Endpoint, Endpoints, RegistrySettings
from ocid.adapters.http import Broken, Response
from ocid.adapters.sinks import Batches, FileSink, Sink, file_is
from ocid.domain import manifest as manifests, reference as references
from ocid.domain.manifest import Descriptor, Index, Manifest, Platform
from ocid.domain.reference import Reference
from ocid.errors import EffectFailed, NotFound, OcidError, Unavailable
from ocid.ids import Digest, ImageId, digest_of
from ocid.ports import Credentials, LayerBlob, ResolvedImage

PARALLEL: Final = 3  # downloads at a time
STALL_S: Final = 60.0
RETRIES: Final = 3
BACK_OFF_S: Final = (0.2, 0.8, 3.2)
_ERROR_BYTES_MAX: Final = 64 << 10
_ERROR_TEXT_MAX: Final = 300
_PROGRESS_BYTES: Final = 64 << 10  # less than this between two failures is no progress
_SECRET_LIKE = re.compile(r"(?i:basic|bearer) \S+|eyJ[A-Za-z0-9_=.-]{20,}")  # a header, a JSON web token

T = TypeVar("T")


class _Again(Exception):
    """The endpoint asks to be tried again: it is overloaded or broken inside."""


class HttpRegistry:
    """The ``Registry`` port."""

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings] | None = None,
        *,
        host: Platform | None = None,
        parallel: int = PARALLEL,
        stall_s: float = STALL_S,
        retries: int = RETRIES,
    ) -> None:
        """Set up the client; no connection is made.

        Args:
            settings: by registry host; the key ``*`` is for all that have none of their own.
            host: the platform to choose images for; by default the one of this machine.
            stall_s: a connection on which nothing happens for so long is cut.
        """
        self._host = host or manifests.host_platform(platform.machine())
        self._slots = trio.CapacityLimiter(parallel)
        self._retries = retries
        self._endpoints = Endpoints(settings or {}, stall_s)
        self._client = self._endpoints.client
        self._authorizer = Authorizer(self._client)

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._client.close()

    # --- resolving ---------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str, credentials: Credentials | None) -> ResolvedImage:
        """Fetch and verify manifest and configuration of a reference, for this host's platform.

        Raises:
            NotFound: no such repository, tag or platform.
            EffectFailed: the registry refused, or lied about a digest or size.
            Unsupported: it is no image that can be run here.
            Unavailable: no registry or mirror answered, or none made progress in time.
        """
        name = references.parse(reference)

        async def at(endpoint: Endpoint) -> ResolvedImage:
            return await self._resolve_at(endpoint, name, credentials)

        return await self._anywhere(name, at, last_first=False)

    async def _resolve_at(self, endpoint: Endpoint, name: Reference, credentials: Credentials | None) -> ResolvedImage:
        raw, document = await self._manifest(endpoint, name, name.target, name.digest, None, credentials)
        index = index_digest = None
        if isinstance(document, Index):
            index, index_digest = raw, digest_of(raw)
            entry = manifests.choose(document, self._host)
            raw, document = await self._manifest(endpoint, name, entry.digest, entry.digest, entry, credentials)
            if isinstance(document, Index):
                raise EffectFailed(f"{endpoint.origin} sent an index for {entry.digest}, wanted a manifest")
        config = await self._config(endpoint, name, document, credentials)
        layers = tuple(
            LayerBlob(
                chain_id=layer.chain_id,
                diff_id=layer.diff_id,
                blob=layer.blob.digest,
                media_type=layer.blob.media_type,
                size_bytes=layer.blob.size_bytes,
            )
            for layer in manifests.layers(document, config, self._host)
        )
        return ResolvedImage(
            endpoint=str(endpoint.origin),
            index=index,
            manifest=raw,
            config=config,
            manifest_digest=digest_of(raw),
            index_digest=index_digest,
            image_id=ImageId(document.config.digest),
            layers=layers,
            total_bytes=manifests.total_bytes(raw, document),
        )

    async def _manifest(
        self,
        endpoint: Endpoint,
        name: Reference,
        target: str,
        pinned: Digest | None,
        entry: Descriptor | None,
        credentials: Credentials | None,
    ) -> tuple[bytes, Manifest | Index]:
        headers = {"Accept": ", ".join(manifests.ACCEPT)}
        what = f"manifest of {name}"

        async def once() -> tuple[bytes, str, str]:
            async with self._open(endpoint, name, f"manifests/{target}", headers, credentials) as response:
                if response.status == 404:
                    raise NotFound("image", str(name))
                await _expect(response, (200,), what, credentials)
                raw = await response.read(manifests.MANIFEST_BYTES_MAX)
                return raw, response.header("content-type"), response.header("docker-content-digest")

        raw, content_type, said = await self._tried(endpoint, once)
        found = digest_of(raw)
        wanted = pinned or (said if said.startswith("sha256:") else found)
        if found != wanted:
            raise EffectFailed(f"{endpoint.origin} sent {found} as {what}, wanted {wanted}: refused")
        if entry is not None and entry.size_bytes != len(raw):
            raise EffectFailed(
                f"{endpoint.origin} sent {len(raw)} bytes as {what}, its index says {entry.size_bytes}: refused"
            )
        return raw, manifests.parse(raw, content_type.partition(";")[0].strip())

    async def _config(
        self, endpoint: Endpoint, name: Reference, document: Manifest, credentials: Credentials | None
    ) -> bytes:
        wanted = document.config
        if wanted.size_bytes > manifests.MANIFEST_BYTES_MAX:
            limit = manifests.MANIFEST_BYTES_MAX
            raise EffectFailed(f"config of {name} has {wanted.size_bytes} bytes, the limit is {limit}")
        sink = Sink()
        await self._download(endpoint, name, wanted.digest, wanted.size_bytes, sink, credentials, lambda _: None)
        return sink.content()

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def fetch(
        self,
        reference: str,
        credentials: Credentials | None,
        blob: LayerBlob,
        into: Path,
        progress: Callable[[int], None],
    ) -> None:
        """Download one blob to the file *into*, verified and fsynced. *progress* gets the number of new bytes.

        A file that is there already and is the blob is left as it is. Whatever fails, no other file stays.

        Raises:
            EffectFailed: the registry refused, or lied about digest or size.
            Unavailable: no registry or mirror answered, or none made progress in time.
        """
        name = references.parse(reference)
        async with self._slots:
            if await trio.to_thread.run_sync(file_is, into, blob.size_bytes, blob.blob):
                progress(blob.size_bytes)
                return
            partial = into.with_name(f"{into.name}.{blob.chain_id.removeprefix('sha256:')[:16]}.part")

            told = 0

            def reached(size_bytes: int) -> None:
                nonlocal told
                if size_bytes > told:  # a download that begins anew is no news until it is further than before
                    progress(size_bytes - told)
                    told = size_bytes

            async def at(endpoint: Endpoint) -> None:
                with FileSink(partial) as sink:
                    await self._download(endpoint, name, blob.blob, blob.size_bytes, sink, credentials, reached)
                    await trio.to_thread.run_sync(sink.publish, into)

            await self._anywhere(name, at, last_first=True)

    async def _download(
        self,
        endpoint: Endpoint,
        name: Reference,
        wanted: Digest,
        size_bytes: int,
        sink: Sink,
        credentials: Credentials | None,
        progress: Callable[[int], None],
    ) -> None:
        """Stream a blob into *sink*, go on where a connection broke, and check size and digest.

        *progress* gets the number of bytes that are there.
        """
        what = f"blob {wanted} of {name.repository}"

        async def go_on() -> None:
            if 0 < sink.size_bytes == size_bytes:
                return  # all had come before the connection broke
            headers = {"Range": f"bytes={sink.size_bytes}-"} if sink.size_bytes else {}
            async with self._open(endpoint, name, f"blobs/{wanted}", headers, credentials) as response:
                if response.status == 404:
                    raise NotFound("blob", f"{wanted} in {name.repository} at {endpoint.origin}")
                await _expect(response, (200, 206), what, credentials)
                if not _continues(response, sink.size_bytes):
                    sink.restart()
                    if response.status == 206:
                        raise _Again(f"{endpoint.origin} sends another part of {what} than it was asked for")
                said = response.header("content-length")
                if said.isdigit() and int(said) != size_bytes - sink.size_bytes:
                    raise _lied(endpoint, what, int(said) + sink.size_bytes, size_bytes)
                batches = Batches(sink)
                try:
                    while piece := await response.piece():
                        if batches.size_bytes + len(piece) > size_bytes:
                            raise _lied(endpoint, what, batches.size_bytes + len(piece), size_bytes)
                        await batches.write(piece)
                        progress(batches.size_bytes)
                except Broken:
                    await batches.flush()  # the next attempt goes on from there
                    raise
                await batches.flush()

        await self._tried(endpoint, go_on, lambda: sink.size_bytes)
        if sink.size_bytes != size_bytes:
            raise _lied(endpoint, what, sink.size_bytes, size_bytes)
        if sink.digest() != wanted:
            raise EffectFailed(f"{endpoint.origin} sent {sink.digest()} as {what}: refused; push the image again")

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _anywhere(self, name: Reference, at: Callable[[Endpoint], Awaitable[T]], *, last_first: bool) -> T:
        """Do *at* at the mirrors and the origin in turn, until one succeeds."""
        troubles: dict[Endpoint, OcidError] = {}
        for endpoint in await self._endpoints.of(name, last_first=last_first):
            try:
                result = await at(endpoint)
            except OcidError as error:
                troubles[endpoint] = error
                continue
            self._endpoints.note_answer(name, endpoint)
            return result
        origin = next(error for endpoint, error in troubles.items() if not endpoint.mirror)
        mirrors = [error.message for endpoint, error in troubles.items() if endpoint.mirror]
        if mirrors and isinstance(origin, Unavailable):
            raise Unavailable("; ".join([origin.message, *mirrors])) from origin
        raise origin

    async def _tried(
        self, endpoint: Endpoint, attempt: Callable[[], Awaitable[T]], position: Callable[[], int] = lambda: 0
    ) -> T:
        """Make an attempt again while it breaks in transit; a mirror that gives nothing at all gets only one."""
        failures = 0
        while True:
            before = position()
            try:
                return await attempt()
            except (Broken, _Again) as error:
                moved = position() - before >= _PROGRESS_BYTES
                failures = 1 if moved else failures + 1
                hopeless = not moved and (endpoint.mirror or (isinstance(error, Broken) and error.stalled))
                if hopeless or failures > self._retries:
                    raise Unavailable(f"registry {error} (tried {failures} times): try again later") from None
            await trio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])

    @asynccontextmanager
    async def _open(
        self,
        endpoint: Endpoint,
        name: Reference,
        path: str,
        headers: Mapping[str, str],
        credentials: Credentials | None,
    ) -> AsyncIterator[Response]:
        """Ask for something of a repository, answering the challenge if there is one."""
        own = None if endpoint.mirror else credentials
        scope = f"repository:{name.path}:pull"
        url = f"{endpoint.origin}{endpoint.base}/v2/{name.path}/{path}{endpoint.query}"
        known = self._authorizer.known(endpoint.origin, scope, own)
        async with self._client.request("GET", url, _with(headers, known)) as response:
            if response.status != 401:
                yield response
                return
            challenges = tuple(
                challenge for header in response.headers("www-authenticate") for challenge in parse_challenges(header)
            )
            reason = _reason(await response.read(_ERROR_BYTES_MAX), own)
        refused = EffectFailed(f"{endpoint.origin} refuses {name.repository} (401): {reason}; check the pull secret")
        if response.origin != endpoint.origin or (own is not None and own.registry_token):
            raise refused
        self._authorizer.forget(endpoint.origin, scope, own)
        answer = await self._authorizer.answer(endpoint.origin, challenges, scope, own)
        if answer is None:
            raise refused
        async with self._client.request("GET", url, _with(headers, answer)) as response:
            if response.status == 401:
                self._authorizer.forget(endpoint.origin, scope, own)
                raise refused
            yield response


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return dict(headers) if authorization is None else {**headers, "Authorization": authorization}


async def _expect(response: Response, wanted: tuple[int, ...], what: str, credentials: Credentials | None) -> None:
    """Check a response's status.

    Raises:
        _Again: it is one that may pass.
        EffectFailed: it is a refusal.
    """
    status = response.status
    if status in wanted:
        return
    reason = _reason(await response.read(_ERROR_BYTES_MAX), credentials)
    if status >= 500 or status == 429:
        raise _Again(f"{response.origin} answers {status} for {what}: {reason}")
    hint = "; check the pull secret" if status == 403 else ""
    raise EffectFailed(f"{response.origin} refuses {what} ({status}): {reason}{hint}")


def _reason(raw: bytes, credentials: Credentials | None) -> str:
    """Return what a registry says in an error's body, without anything secret that it may have repeated."""
    text = raw.decode("utf-8", "replace")
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = msgspec.json.decode(raw, type=_Refusal).errors
        text = ", ".join(f"{item.code} {item.message}".strip() for item in told)
    for secret in () if credentials is None else msgspec.structs.astuple(credentials):
        if len(secret) >= 3:
            text = text.replace(secret, "…")
    text = _SECRET_LIKE.sub("…", " ".join(text.split()))
    return text[:_ERROR_TEXT_MAX] or "no reason given"


class _Told(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Refusal(msgspec.Struct):
    errors: list[_Told] = []


def _continues(response: Response, at: int) -> bool:
    """Say whether a response begins at byte *at*."""
    return at == 0 if response.status == 200 else response.header("content-range").startswith(f"bytes {at}-")


def _lied(endpoint: Endpoint, what: str, size_bytes: int, wanted: int) -> EffectFailed:
    return EffectFailed(
        f"{endpoint.origin} sends {size_bytes} bytes or more as {what}, its manifest says {wanted}: refused"
    )
