"""Who is at the other end of a connection. unix(7) SO_PEERCRED and proc(5), checked against reuse of the pid.

Neither arguments nor environment of the peer are read: they hold secrets, and prove nothing.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from ocid.cri.executable import Executable
from ocid.events.node import UNSET, PeerSeen

CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
SO_PEERPIDFD: Final = 77  # Linux 6.5; a pidfd of the process that connected, not of whoever has its pid by now
PROC_BYTES_MAX: Final = 16_384  # a line for each cgroup v1 hierarchy
TEXT_BYTES_MAX: Final = 400  # of the executable's path and of the cgroup: both fit a record
_CONTAINER: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Identity(NamedTuple):
    """What is known of a peer, and the file that it runs, to be measured and closed by who takes it."""

    seen: PeerSeen
    executable: Executable | None


def identify(connection: socket.socket) -> Identity:
    """Say who is connected. What cannot be known, because the process is gone already, is left empty.

    A pidfd is taken before /proc is read and checked after: what was read is the peer's, not that of a later process
    with the same pid. A peer that passed its socket on to another process is seen as the one that connected. Nothing
    here asks a file system that the peer may have made, so none can hold us up.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, gid = CREDENTIALS.unpack(raw)
    unknown = Identity(PeerSeen(pid=pid, start_ticks=0, uid=uid, gid=gid, exe="", comm="", cgroup=""), None)
    if pid <= 0:
        return unknown  # in another PID namespace
    try:
        pidfd = _pidfd(connection, pid)
    except OSError:
        return unknown
    executable = None
    try:
        executable = Executable.of(pid)
        seen = _read(pid, uid, gid)
        ready, _, _ = select.select([pidfd], [], [], 0)
        if ready or seen is None:
            return unknown
        found, executable = executable, None
        return Identity(seen, found)
    finally:
        os.close(pidfd)
        if executable is not None:
            executable.close()


def own_container() -> str:
    """Return the id of the container that this daemon runs in, "" for none."""
    return container_of(_text(Path("/proc/self/cgroup")))


def container_of(cgroups: str) -> str:
    """Return the id of the innermost container that /proc/PID/cgroup tells of, "" for none.

    Every runtime names a container's cgroup after its id, which is 64 hex digits: "/kubepods/pod…/<id>",
    "/system.slice/docker-<id>.scope".
    """
    paths = [line.split(":", 2)[2] for line in cgroups.splitlines() if line.count(":") >= 2]
    found = [ids for ids in map(_CONTAINER.findall, paths) if ids]
    return str(max(found, key=len)[-1]) if found else ""


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            raise
        return os.pidfd_open(pid)


def _read(pid: int, uid: int, gid: int) -> PeerSeen | None:
    proc = Path(f"/proc/{pid}")
    try:
        stat = (proc / "stat").read_text(errors="replace")
        comm, _, rest = stat.partition("(")[2].rpartition(")")
        cgroups = _text(proc / "cgroup")
        return PeerSeen(
            pid=pid,
            start_ticks=int(rest.split()[19]),
            uid=uid,
            gid=gid,
            exe=_link(proc / "exe"),
            comm=comm[:64],
            cgroup=_cgroup(cgroups),
            login_uid=_number(proc / "loginuid"),
            session_id=_number(proc / "sessionid"),
            container_id=container_of(cgroups),
        )
    except (OSError, ValueError, IndexError):
        return None


def _link(path: Path) -> str:
    try:
        return _bounded(os.readlink(bytes(path)))
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(_text(path) or UNSET)


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
                return _bounded(path.encode())
    return "/" if lines else ""


def _bounded(raw: bytes) -> str:
    """Return text of at most ``TEXT_BYTES_MAX`` bytes, whatever *raw* holds."""
    text = raw.decode("utf-8", "replace")
    return text.encode()[:TEXT_BYTES_MAX].decode("utf-8", "ignore")
