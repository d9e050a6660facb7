"""What the events about the log itself say. Pure."""

from __future__ import annotations

from ocid.events import log
from ocid.projections.text import short, size
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


@says(log.Archived)
def archived(event: log.Archived) -> str:
    """Say what is where."""
    return f"records {event.first} to {event.last} archived in {event.file}, {size(event.bytes)}, {event.digest}"


@says(log.Trimmed)
def trimmed(event: log.Trimmed) -> str:
    """Say up to where, why, and what stays."""
    why = {"size": "the log was too large", "age": "they were too old"}.get(event.reason, event.reason)
    return f"log trimmed up to record {event.through}, since {why}; {event.left} of these stay"


@says(log.ArchiveRemoved)
def archive_removed(event: log.ArchiveRemoved) -> str:
    """Say which records are gone for good."""
    return f"archive {event.file} of records {event.first} to {event.last} is gone: {event.reason}"


@says(log.WitnessFailing)
def witness_failing(event: log.WitnessFailing) -> str:
    """Say what nobody off the node can vouch for."""
    since = f"after the first {event.unconfirmed_since_size}" if event.unconfirmed_since_size else "since the start"
    return f"witness {event.sink} confirms no checkpoints, of records {since}: {event.error}"


@says(log.WitnessRecovered)
def witness_recovered(event: log.WitnessRecovered) -> str:
    """Say up to where it knows the log now."""
    return f"witness {event.sink} confirms checkpoints again, up to record {event.confirmed_size}"


@says(log.Erased)
def erased(event: log.Erased) -> str:
    """Say what of which pod, and why."""
    by = "" if event.login_uid == NO_LOGIN else f", by login uid {event.login_uid}"
    return f"{event.entries} documents of pod {short(event.pod_id)} erased{by}: {event.reason}"


def _key(text: str) -> str:
    """Return a key's id of the verifier key NAME+ID+KEY; the name is the log's, mostly."""
    return text.split("+")[1] if text.count("+") >= 2 else text[:40]
