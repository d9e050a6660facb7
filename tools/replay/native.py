"""Records of the log as the log has them, with an id that is unique in the world. Pure."""

from __future__ import annotations

from typing import Any

from ocid.events.envelope import Envelope
from ocid.projections.fields import plain


def native(envelope: Envelope, origin: str) -> dict[str, Any]:
    """Return *envelope* in JSON-ready form, as ``ocid-replay timeline -o jsonl`` does, and its id before all else.

    Args:
        envelope: any record.
        origin: the log's name, unique in the world.
    """
    return {"id": f"{origin}:{envelope.seq}", **plain(envelope)}
