"""Names of images, read the way Docker and Kubernetes read them.

``nginx`` is ``docker.io/library/nginx:latest``: the first part names a registry only when it has a dot, a colon or an
upper-case letter, or is ``localhost``. A name with a tag and a digest means the digest.

Source: distribution/reference grammar; Kubernetes documentation "Images", section "Image names".
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ocid.errors import InvalidRequest
from ocid.ids import Digest, digest

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
REFERENCE_BYTES_MAX: Final = 512
REPOSITORY_BYTES_MAX: Final = 255  # registry and path together; distribution/reference NameTotalLengthMax

_DOMAIN = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
    r"(?::[0-9]{1,5})?"
)
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BARE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A normalised name: registry, path, and either a digest or a tag, or both."""

    domain: str  # "docker.io", "registry.k8s.io", "127.0.0.1:5000", "[::1]:5000"
    path: str  # "library/nginx"
    tag: str | None
    digest: Digest | None

    @property
    def repository(self) -> str:
        """Registry and path, as in ``docker.io/library/nginx``."""
        return f"{self.domain}/{self.path}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        """The canonical name: ``registry/path@digest`` where there is a digest, else ``registry/path:tag``."""
        if self.digest is not None:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}"


def parse(text: str) -> Reference:
    """Read an image reference and fill in what it leaves out.

    Raises:
        InvalidRequest: *text* is not a reference; the message says which part of it.
    """
    if not text or len(text.encode("utf-8", "surrogatepass")) > REFERENCE_BYTES_MAX:
        raise InvalidRequest(f"image reference {text[:80]!r}: wanted 1 to {REFERENCE_BYTES_MAX} bytes")
    name, at, digest_text = text.partition("@")
    pinned = _digest(text, digest_text) if at else None
    name, tag = _split_tag(name)
    if tag is not None and _TAG.fullmatch(tag) is None:
        raise _refusal(text, f"tag {tag!r} wants 1 to 128 letters, digits, '_', '.' or '-', not '.' or '-' first")
    domain, path = _split_domain(name)
    if _BARE_ID.fullmatch(text) is not None:
        raise _refusal(text, "this is an image id, which cannot be pulled; give a name")
    _check_name(text, domain, path)
    if tag is None and pinned is None:
        tag = DEFAULT_TAG
    return Reference(domain=domain, path=path, tag=tag, digest=pinned)


def _refusal(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"image reference {text[:200]!r}: {why}")


def _digest(text: str, digest_text: str) -> Digest:
    try:
        return digest(digest_text)
    except InvalidRequest as error:
        raise _refusal(text, error.message) from error


def _split_tag(name: str) -> tuple[str, str | None]:
    """Split at the last colon that stands after the last slash; a colon before it belongs to a port."""
    slash = name.rfind("/")
    colon = name.rfind(":")
    return (name[:colon], name[colon + 1 :]) if colon > slash else (name, None)


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        first, rest = DEFAULT_DOMAIN, name
    if first == "index.docker.io":
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _check_name(text: str, domain: str, path: str) -> None:
    if _DOMAIN.fullmatch(domain) is None:
        raise _refusal(text, f"{domain!r} is no registry host")
    for part in path.split("/"):
        if _PATH_PART.fullmatch(part) is None:
            lower = " in lower case" if part != part.lower() else ""
            raise _refusal(text, f"path part {part!r} wants letters and digits{lower}, '.', '_', '__' or '-' between")
    if len(domain) + 1 + len(path) > REPOSITORY_BYTES_MAX:
        raise _refusal(text, f"registry and path are longer than {REPOSITORY_BYTES_MAX} bytes; use a shorter path")
