"""What the events about the log itself say. Pure."""

from __future__ import annotations

from ocid.events import log
from ocid.projections.text import short
from ocid.projections.vocabulary import says

NO_LOGIN = 2**32 - 1
_OCCASIONS = {
    "start": "as the daemon started",
    "events": "after many events",
    "time": "after a minute",
    "rotation": "as the key changed",
    "stop": "as the daemon stopped",
}


@says(log.Founded)
def founded(event: log.Founded) -> str:
    """Say its name and its key's."""
    return f"log {event.origin} founded, signed with key {_key(event.key)}"


@says(log.KeyRotated)
def rotated(event: log.KeyRotated) -> str:
    """Say which key signs now."""
    return f"key {_key(event.key)} signs from here on; the one before signed for it"


@says(log.KeyReplaced)
def replaced(event: log.KeyReplaced) -> str:
    """Say which key signs now, and that nobody vouches for it."""
    return f"key {_key(event.key)} signs from here on, and nothing vouches for it: {event.reason}"


@says(log.Sealed)
def sealed(event: log.Sealed) -> str:
    """Say up to where."""
    return f"records up to {event.size} signed {_OCCASIONS.get(event.occasion, event.occasion)}"


@says(log.Erased)
def erased(event: log.Erased) -> str:
    """Say what of which pod, and why."""
    by = "" if event.login_uid == NO_LOGIN else f", by login uid {event.login_uid}"
    return f"{event.entries} documents of pod {short(event.pod_id)} erased{by}: {event.reason}"


def _key(text: str) -> str:
    """Return a key's id of the verifier key NAME+ID+KEY; the name is the log's, mostly."""
    return text.split("+")[1] if text.count("+") >= 2 else text[:40]
