"""Identifiers, as types that cannot be confused, and the rules they obey."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from ocid.errors import InvalidRequest

PodId = NewType("PodId", str)  # 64 hex digits; CRI PodSandbox.id
ContainerId = NewType("ContainerId", str)  # 64 hex digits; CRI Container.id
ExecId = NewType("ExecId", str)  # 32 hex digits
SessionId = NewType("SessionId", str)  # 32 hex digits
CheckpointId = NewType("CheckpointId", str)  # 32 hex digits; of a container checkpoint
PullId = NewType("PullId", str)  # 32 hex digits
Digest = NewType("Digest", str)  # "sha256:" and 64 hex digits; OCI image-spec descriptor.md "Digests"
ImageId = NewType("ImageId", str)  # the digest of the image's configuration
ChainId = NewType("ChainId", str)  # OCI image-spec config.md "Layer ChainID"
StreamId = NewType("StreamId", str)  # "<aggregate>/<id>", for instance "pod/3f2c…"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest(text: str) -> Digest:
    """Check that *text* is a sha256 digest and return it as one.

    Raises:
        InvalidRequest: it is not; other algorithms are not accepted.
    Source: OCI image-spec descriptor.md "Digests".
    """
    if _DIGEST.fullmatch(text) is None:
        raise InvalidRequest(f"{text[:100]!r} is not a digest: wanted 'sha256:' and 64 lower-case hex digits")
    return Digest(text)


def stream(aggregate: str, name: str) -> StreamId:
    """Name the stream of one aggregate's events."""
    return StreamId(f"{aggregate}/{name}")


def digest_of(document: bytes) -> Digest:
    """Name a document by its content."""
    return Digest("sha256:" + hashlib.sha256(document).hexdigest())
