"""Records of the log as CloudEvents 1.0. Pure.

The mapping, defined here and nowhere else::

    specversion      "1.0"
    id               seq, in decimal: unique within a source, and the same at every export
    source           the node, by default "/ocid/<host name>"
    type             "io.ocid." and the event's type
    dataschema       "urn:ocid:event:<type>:<version of the type>"
    subject          the stream, "pod/3f2c…"
    time             the wall clock, RFC 3339 in UTC with nanoseconds
    datacontenttype  "application/json"
    data             the event's own fields
    traceparent      where the caller traces: the Distributed Tracing extension
    extensions       ocidseq, ocidversion (in the stream), ocidepoch, ocidwho, ocidcause, ocidboot (id), ocidbootns,
                     ocidcorrelation, ocidcommand; the ones that are empty or zero are left out

Numbers that do not fit CloudEvents' 32-bit Integer are decimal strings. Source: CloudEvents 1.0.2, sections "Context
Attributes", "Type System" and the JSON event format.
"""

from __future__ import annotations

from typing import Any, Final

from ocid.events.envelope import Envelope
from ocid.events.trace import traceparent
from ocid.projections.fields import fields
from ocid.projections.text import exact_time_text

SPEC_VERSION: Final = "1.0"
TYPE_PREFIX: Final = "io.ocid."


def cloud_event(envelope: Envelope, source: str) -> dict[str, Any]:
    """Return *envelope* as a CloudEvent in JSON-ready form.

    Args:
        envelope: any record, of known type or not.
        source: a URI reference that names the node.
    """
    context = envelope.context
    mapped: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": str(envelope.seq),
        "source": source,
        "type": TYPE_PREFIX + envelope.type,
        "dataschema": f"urn:ocid:event:{envelope.type}:{envelope.type_version}",
        "subject": envelope.stream,
        "datacontenttype": "application/json",
        "ocidseq": str(envelope.seq),
        "ocidversion": str(envelope.version),
        "ocidepoch": str(envelope.epoch),
        "ocidboot": envelope.boot_id,
        "ocidbootns": str(envelope.boot_ns),
    }
    at = exact_time_text(envelope.wall_ns)
    if not at.startswith("@"):  # a clock that no calendar has is no CloudEvents timestamp
        mapped["time"] = at
    for name, value in (
        ("ocidwho", context.who),
        ("ocidcause", context.cause),
        ("ocidcorrelation", context.correlation),
        ("ocidcommand", context.command_id),
    ):
        if value:
            mapped[name] = str(value)
    if context.trace:
        mapped["traceparent"] = traceparent(context.trace)
    mapped["data"] = fields(envelope.event)
    return mapped
