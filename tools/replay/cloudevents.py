"""Records of the log as CloudEvents 1.0. Pure.

The mapping, defined here and nowhere else::

    specversion      "1.0"
    id               seq, in decimal: unique within a source, and the same at every export
    source           the log, by default "/" and its name, "/ocid/<host name>/<random>": no two logs have the same
    type             "io.ocid." and the event's type
    dataschema       "urn:ocid:event:<type>:<version of the type>"
    subject          the stream, "pod/3f2c…"
    time             the wall clock, RFC 3339 in UTC with nanoseconds
    datacontenttype  "application/json"
    data             the event's own fields
    traceparent      where the caller traces: the Distributed Tracing extension
    sequence         seq with 20 digits, so that texts order as numbers: the Sequence extension
    partitionkey     the stream, whose events are ordered among themselves: the Partitioning extension
    correlationid    what one call or recovery led to: the Correlation extension
    causationid      the id of the event that this one follows from: likewise
    extensions       ocidversion (in the stream), ocidepoch, ocidwho (id of who asked), ocidboot (id), ocidbootns,
                     ocidcommand; the ones that are empty or zero are left out

Numbers that do not fit CloudEvents' 32-bit Integer are decimal strings. A batch is a JSON array of these. Source:
CloudEvents 1.0.2, sections "Context Attributes", "Type System", the JSON event and batch formats, and the extensions.
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
        source: a URI reference that names the log.
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
        "sequence": f"{envelope.seq:020}",
        "partitionkey": envelope.stream,
        "ocidversion": str(envelope.version),
        "ocidepoch": str(envelope.epoch),
        "ocidboot": envelope.boot_id,
        "ocidbootns": str(envelope.boot_ns),
    }
    at = exact_time_text(envelope.wall_ns)
    if not at.startswith("@"):  # a clock that no calendar has is no CloudEvents timestamp
        mapped["time"] = at
    for name, value in (
        ("correlationid", context.correlation),
        ("causationid", context.cause),
        ("ocidwho", context.who),
        ("ocidcommand", context.command_id),  # the Distributed Tracing extension, "traceparent", belongs beside it
    ):
        if value:
            mapped[name] = str(value)
    if context.trace:
        mapped["traceparent"] = traceparent(context.trace)
    mapped["data"] = fields(envelope.event)
    return mapped
