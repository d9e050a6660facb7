"""What plugins changed about a container, spelled out from the document that the event cites. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ocid.domain.nri import Change
from ocid.errors import OcidError
from ocid.events.codec import Damaged
from ocid.events.container import Adjusted
from ocid.ids import Digest

SHOWN_MAX: Final = 32
KEY_CHARS_MAX: Final = 80

Document = Callable[[Digest], bytes]


def spelled(event: Adjusted, document: Document) -> str:
    """Return who changed what, "10-a: env FOO, args; 20-b: mounts /data"; "" where the document is not there."""
    try:
        changes = msgspec.json.decode(document(event.changes), type=list[Change])
    except (OcidError, Damaged, msgspec.MsgspecError):
        return ""
    by_plugin: dict[str, list[str]] = {}
    for change in changes[:SHOWN_MAX]:
        what = f"{change.field} {change.key[:KEY_CHARS_MAX]}".strip()
        by_plugin.setdefault(change.plugin, []).append(what)
    text = "; ".join(f"{plugin}: {', '.join(what)}" for plugin, what in by_plugin.items())
    return text if len(changes) <= SHOWN_MAX else f"{text}; and {len(changes) - SHOWN_MAX} more"
