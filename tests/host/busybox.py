"""The root file system and the image of static busybox that daemons of tests run."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.host.support import build_rootfs

_PASSWD: Final = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1234:1234:Alice:/home:/bin/sh\n"
_GROUP: Final = b"root:x:0:\nalice:x:1234:\nstaff:x:50:alice\n"


def busybox_layer() -> bytes:
    """The layer of a root file system of static busybox, with users, and programs that cannot run."""
    with tempfile.TemporaryDirectory(prefix="ocid-rootfs-") as scratch:
        rootfs = build_rootfs(Path(scratch))
        for applet in ("unshare", "umount", "ping", "ping6", "nc", "wget", "rm", "df", "readlink", "grep", "nslookup"):
            if not (rootfs / "bin" / applet).exists():
                (rootfs / "bin" / applet).symlink_to("busybox")
        (rootfs / "etc/passwd").write_bytes(_PASSWD)
        (rootfs / "etc/group").write_bytes(_GROUP)
        (rootfs / "tmp").chmod(0o1777)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for path in sorted(rootfs.rglob("*")):
                tar.add(path, str(path.relative_to(rootfs)), recursive=False, filter=_anonymous)
        return raw.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    return entry
