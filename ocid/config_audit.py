"""The part of the configuration that is about what the log says of commands; see ``ocid.config``."""

from __future__ import annotations

import msgspec


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """[audit] How much the log says of what clients do."""

    coalesce_probes: bool = True  # commands that one client repeats, as probes are, are counted once a minute
