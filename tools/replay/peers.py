"""``ocid-replay peers``: who has used the socket, and what they changed."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from ocid.events import node, pod
from ocid.events.codec import Header
from ocid.journal.looking import look
from ocid.journal.reader import Reader
from ocid.projections.text import exact_time_text, time_text

from . import output
from .exits import OK
from .reading import headers, log_directory

COLUMNS: Final = (
    "MARK", "EXECUTABLE", "UID", "LOGIN", "PIDS", "CONNECTIONS", "FIRST SEQ", "FIRST(UTC)", "LAST SEQ", "LAST(UTC)",
    "CHANGED",
)  # fmt: skip
UNUSUAL_CALL: Final = "node.unusual_call"
_NO_LOGIN: Final = 4294967295
_PIDS_SHOWN: Final = 4
_TYPES_SHOWN: Final = 8


class User(msgspec.Struct, kw_only=True):
    """All connections of one executable, uid and login."""

    exe: str
    comm: str
    uid: int
    login_uid: int | None  # None: no login
    usual: bool | None = None  # None where the log does not tell who is
    pids: list[int] = []
    connections: list[dict[str, Any]] = []  # each with all that is recorded of it
    first_seq: int = 0
    first: str = ""
    first_ns: int = 0
    last_seq: int = 0
    last: str = ""
    last_ns: int = 0
    changed: dict[str, int] = {}  # type of record → how many it asked for
    refused: int = 0
    unusual_calls: int = 0


def run(args: argparse.Namespace) -> int:
    """Print who has used the socket."""
    with look(log_directory(args)) as reader:
        found = users(_seen(reader), headers(reader))
    output.listed(args.output, "peers", found, COLUMNS, map(row, found))
    return OK


def _seen(reader: Reader) -> Iterator[tuple[int, int, node.PeerSeen]]:
    for each in reader.read_stream(node.NODE):
        if isinstance(each.event, node.PeerSeen):
            yield each.seq, each.wall_ns, each.event


def users(seen: Iterable[tuple[int, int, node.PeerSeen]], log: Iterable[tuple[Header, bytes]]) -> list[User]:
    """Return who used the socket, in order of their first connection. Pure.

    Who drives pods is the usual one: the executable and uid that the first pod of the log was asked for by.

    Args:
        seen: seq, wall clock and identity of every connection that is recorded.
        log: every record's header.
    """
    groups: dict[tuple[str, str, int, int], User] = {}
    by_seq: dict[int, User] = {}
    for seq, wall_ns, peer in seen:
        key = (peer.exe, "" if peer.exe else peer.comm, peer.uid, peer.login_uid)
        user = groups.get(key)
        if user is None:
            login = None if peer.login_uid == _NO_LOGIN else peer.login_uid
            user = groups[key] = User(exe=peer.exe, comm=peer.comm, uid=peer.uid, login_uid=login)
        by_seq[seq] = user
        user.connections.append({"seq": seq, "time": exact_time_text(wall_ns), **msgspec.to_builtins(peer)})
        user.pids += [peer.pid] if peer.pid not in user.pids else []
        _used(user, seq, wall_ns)
    usual: tuple[str, int] | None = None
    for header, _ in log:
        asked = by_seq.get(header.who) if header.who else None
        if asked is None:
            continue
        if usual is None and header.type == pod.Declared.TYPE:
            usual = (asked.exe, asked.uid)
        _used(asked, header.seq, header.wall_ns)
        if header.type == node.RequestRefused.TYPE:
            asked.refused += 1
        elif header.type == UNUSUAL_CALL:
            asked.unusual_calls += 1
        else:
            asked.changed[header.type] = asked.changed.get(header.type, 0) + 1
    for user in groups.values():
        user.usual = None if usual is None else (user.exe, user.uid) == usual
    return list(groups.values())


def _used(user: User, seq: int, wall_ns: int) -> None:
    at = exact_time_text(wall_ns)
    if not user.first_seq or seq < user.first_seq:
        user.first_seq, user.first, user.first_ns = seq, at, wall_ns
    if seq > user.last_seq:
        user.last_seq, user.last, user.last_ns = seq, at, wall_ns


def row(user: User) -> tuple[str, ...]:
    """Return its row. Pure."""
    pids = " ".join(map(str, user.pids[:_PIDS_SHOWN])) + (" …" if len(user.pids) > _PIDS_SHOWN else "")
    common = Counter(user.changed).most_common()
    changed = ", ".join(f"{count} {kind}" for kind, count in common[:_TYPES_SHOWN])
    more = f", and {len(common) - _TYPES_SHOWN} kinds more" if len(common) > _TYPES_SHOWN else ""
    refused = f"; {user.refused} refused" if user.refused else ""
    refused += f"; {user.unusual_calls} recorded as unusual" if user.unusual_calls else ""
    return (
        {True: "usual", False: "UNUSUAL", None: "?"}[user.usual],
        user.exe or user.comm or "not known",
        str(user.uid),
        "-" if user.login_uid is None else str(user.login_uid),
        pids,
        str(len(user.connections)),
        str(user.first_seq),
        time_text(user.first_ns),
        str(user.last_seq),
        time_text(user.last_ns),
        f"{changed or 'nothing'}{more}{refused}",
    )
