"""What a request wants changed, as far as it can be said without doing it. Pure.

A request that is not checked yet may hold anything; only what looks like an id, a name or a reference is told, so that
nothing that was put into the wrong field gets into the log.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ocid.domain import reference
from ocid.errors import InvalidRequest
from ocid.projections.fold import Fold
from ocid.projections.view import View

_ID: Final = re.compile(r"[0-9a-f]{1,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # of pods, namespaces and containers: DNS subdomains
_IMAGE_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{1,64}")
REFERENCE_CHARS_MAX: Final = 500


def subject_of(request: Any, view: View) -> tuple[str, str]:
    """Return the stream of what *request* is about, "container/3f2c…", and what the caller calls it; "" for unknown.

    Args:
        request: any message of the CRI that changes something.
        view: to complete ids of which only the beginning was given.
    """
    if container_id := getattr(request, "container_id", ""):
        return _stream("container", container_id, view.containers), ""
    if pod_id := getattr(request, "pod_sandbox_id", ""):
        named = _name(request.config.metadata.name) if hasattr(request, "config") else ""
        return _stream("pod", pod_id, view.pods), named
    if hasattr(request, "image"):
        return "", _image(request.image.image)
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if metadata is not None and (name := _name(metadata.name)):
        return "", f"{_name(getattr(metadata, 'namespace', ''))}/{name}"
    return "", ""


def _stream(aggregate: str, name: str, rows: Fold[Any]) -> str:
    if _ID.fullmatch(name) is None:
        return ""
    row = rows.find(name)
    declared = None if row is None else row.state.declared
    full = name if declared is None else getattr(declared, f"{aggregate}_id")
    return f"{aggregate}/{full}"


def _name(text: str) -> str:
    return text if _NAME.fullmatch(text) else ""


def _image(text: str) -> str:
    if _IMAGE_ID.fullmatch(text):
        return text
    try:
        return str(reference.parse(text))[:REFERENCE_CHARS_MAX]
    except InvalidRequest:
        return ""
