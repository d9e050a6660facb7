"""The part of the configuration that is about what the log says of clients; see ``ocid.config``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar, Final

import msgspec

from ocid import config_files
from ocid.classes import DataClass
from ocid.config_files import Key

USUAL_PEERS_MAX: Final = 8
USUAL_PEERS_BYTES_MAX: Final = 1000  # together: they go into one record of the log


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """[audit] What stands out in the log.

    A change that is asked for by anybody but the usual peer has an event of its own, ``node.unusual_call``.
    """

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    coalesce_probes: bool = True  # commands that one client repeats, as probes are, are counted once a minute
    usual_peers: tuple[str, ...] = ()  # programs, "/usr/bin/kubelet"; empty: whatever runs pods first, without a login


def problems(audit: Audit) -> Iterator[tuple[Key, str]]:
    """Yield what no type can say about *audit*."""
    at = ("audit", "usual_peers")
    for path in audit.usual_peers:
        if not path.startswith("/") or not path.isprintable() or os.path.normpath(path) != path:
            yield at, f"wanted absolute paths of programs, without links, is {config_files.shown(path)}"
    if len(set(audit.usual_peers)) != len(audit.usual_peers):
        yield at, "one of them is there twice"
    size = sum(len(path.encode()) for path in audit.usual_peers)
    if len(audit.usual_peers) > USUAL_PEERS_MAX or size > USUAL_PEERS_BYTES_MAX:
        yield at, f"wanted at most {USUAL_PEERS_MAX} paths of {USUAL_PEERS_BYTES_MAX} bytes together"
