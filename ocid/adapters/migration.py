"""The kernel's lock on moving processes between control groups, taken ahead of an OCI runtime that will need it.

A write to ``cgroup.procs`` takes cgroup_threadgroup_rwsem, and the first one in a while has to wait for an RCU grace
period in it: 10 ms and more of nothing at all, in every exec and every create. A second write soon after does not wait.
So we make the first one, a move of ourselves to where we are, while the runtime is still being loaded.

Source: kernel cgroup-v2.rst "favordynmods", the mount option with which there is no such wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_OWN_CGROUPS: Final = "/proc/self/cgroup"
_OURSELVES: Final = b"0"  # the writing process, as cgroup.procs understands it


class MigrationLock:
    """Warms up the migration lock in a thread of its own.

    Args:
        hierarchies: mount points by controller, "" for the v2 hierarchy; the lock is one for all of them.
    """

    def __init__(self, hierarchies: Mapping[str, str]) -> None:
        self._hierarchies = dict(hierarchies)
        self._wanted = threading.Lock()
        self._wanted.acquire()
        self._thread: threading.Thread | None = None

    def warm(self) -> None:
        """Have the lock taken and given back soon. Returns at once; failure costs nobody anything but time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="migration-lock", daemon=True)
            self._thread.start()
        if self._wanted.locked():
            self._wanted.release()

    def _serve(self) -> None:
        while True:
            self._wanted.acquire()
            with suppress(OSError):
                self.stay()

    def stay(self) -> None:
        """Move this process to the cgroup that it is in, which changes nothing. May take tens of milliseconds.

        Raises:
            OSError: the kernel did not let us.
        """
        path = os.path.join(self._own_cgroup(), "cgroup.procs")
        target = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(target, _OURSELVES)
        finally:
            os.close(target)

    def _own_cgroup(self) -> str:
        """Return the directory of this process's cgroup as it is now, in the first hierarchy that is mounted."""
        with open(_OWN_CGROUPS, encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        for _, controllers, path in sorted(lines):  # "0", the v2 hierarchy, first
            for name in controllers.split(","):
                root = self._hierarchies.get(name.removeprefix("name="))
                if root is not None and "/.." not in path:  # outside our cgroup namespace
                    return os.path.join(root, path.lstrip("/"))
        raise FileNotFoundError(f"no cgroup in {_OWN_CGROUPS} is in a hierarchy that is mounted")
