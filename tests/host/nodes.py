"""What kind of node the host tests run on: environment variables that ``tools/vm-guest.sh`` sets."""

from __future__ import annotations

import os
from typing import Final

DRIVER: Final = os.environ.get("OCID_TEST_CGROUP_DRIVER", "cgroupfs")  # of daemons that tests start
SLOW: Final = float(os.environ.get("OCID_TEST_SLOW", "1"))  # how many times slower than a common machine this one is


def cgroup_parent(name: str) -> str:
    """Name the parent cgroup of a daemon's pods, as a kubelet under this driver would."""
    return f"{name}.slice" if DRIVER == "systemd" else f"/{name}"


def pod_cgroup(parent: str, uid: str) -> str:
    """Name a pod's cgroup below that parent, as a kubelet would. CRI LinuxPodSandboxConfig.cgroup_parent."""
    if parent.endswith(".slice"):
        return f"{parent.removesuffix('.slice')}-pod{uid.replace('-', '_')}.slice"
    return f"{parent}/pod{uid}"


def hierarchy_path(parent: str) -> str:
    """Return where the parent is below a hierarchy's mount point, with a slash before it."""
    return f"/{parent}" if parent.endswith(".slice") else parent
