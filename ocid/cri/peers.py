"""Who is at the other end of a connection. unix(7) SO_PEERCRED and proc(5), checked against reuse of the pid."""

from __future__ import annotations

import os
import select
import socket
import struct
from pathlib import Path

from ocid.events.node import PeerSeen

CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
PROC_BYTES_MAX = 4096
NOBODY = 4294967295


def identify(connection: socket.socket) -> PeerSeen:
    """Say who is connected. What cannot be known, because the process is gone already, is left empty.

    A pidfd is taken before /proc is read and checked after: what was read is the peer's, not that of a later process
    with the same pid. A peer that passed its socket on to another process is seen as the one that connected.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, gid = CREDENTIALS.unpack(raw)
    unknown = PeerSeen(pid=pid, start_ticks=0, uid=uid, gid=gid, exe="", comm="", cgroup="")
    if pid <= 0:
        return unknown  # in another PID namespace
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return unknown
    try:
        seen = _read(pid, uid, gid)
        ready, _, _ = select.select([pidfd], [], [], 0)
        return unknown if ready or seen is None else seen
    finally:
        os.close(pidfd)


def _read(pid: int, uid: int, gid: int) -> PeerSeen | None:
    proc = Path(f"/proc/{pid}")
    try:
        stat = (proc / "stat").read_text(errors="replace")
        comm, _, rest = stat.partition("(")[2].rpartition(")")
        return PeerSeen(
            pid=pid,
            start_ticks=int(rest.split()[19]),
            uid=uid,
            gid=gid,
            exe=_link(proc / "exe"),
            comm=comm[:64],
            cgroup=_cgroup(_text(proc / "cgroup")),
            login_uid=int(_text(proc / "loginuid") or NOBODY),
        )
    except (OSError, ValueError, IndexError):
        return None


def _link(path: Path) -> str:
    try:
        return str(path.readlink())[:512]
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(PROC_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _cgroup(text: str) -> str:
    """Choose the line that tells most: that of cgroup v2, else of systemd's hierarchy, else of memory."""
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    for wanted in ("", "name=systemd", "memory"):
        for _, controllers, path in lines:
            if controllers == wanted and path != "/":
                return path[:512]
    return "/" if lines else ""
