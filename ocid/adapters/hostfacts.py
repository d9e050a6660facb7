"""What this kernel and this daemon can do, gathered once at start for the specification builder."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.adapters import linux
from ocid.adapters.cgroups import Cgroups
from ocid.domain.spec.build import HostFacts
from ocid.domain.spec.capabilities import ALL_CAPABILITIES

_APPARMOR: Final = "/sys/kernel/security/apparmor/profiles"  # not there in a container, which can load nothing
_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def gather_host_facts(cgroups: Cgroups) -> HostFacts:
    """Ask the kernel. Unknown files of older kernels mean "no"."""
    held = tuple(name for number, name in enumerate(ALL_CAPABILITIES) if linux.bounding_set_has(number))
    can_raise = "CAP_SYS_RESOURCE" in held
    release = os.uname().release.split("-")[0].split(".")
    machine = os.uname().machine
    return HostFacts(
        capabilities=held,
        last_cap=int(_text("/proc/sys/kernel/cap_last_cap") or len(ALL_CAPABILITIES) - 1),
        can_lower_oom_score_adj=can_raise,
        oom_score_adj=int(_text("/proc/self/oom_score_adj") or 0),
        rlimits_hard={} if can_raise else _hard_limits(),
        cgroup_version=cgroups.version,
        cgroup_controllers=cgroups.controllers(),
        swap_accounting=cgroups.swap_accounting(),
        seccomp_enabled=Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor_enabled=_text("/sys/module/apparmor/parameters/enabled") == "Y" and os.path.exists(_APPARMOR),
        selinux_enabled=Path("/sys/fs/selinux/enforce").exists(),
        resctrl_mounted=Path("/sys/fs/resctrl/schemata").exists(),
        architecture=_GO_NAMES.get(machine, machine),
        kernel=(int(release[0]), int(release[1])),
    )


def _hard_limits() -> dict[str, int]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
    found = {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
    return {name: hard for name, hard in found.items() if hard != resource.RLIM_INFINITY}


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8").strip()
    return ""
