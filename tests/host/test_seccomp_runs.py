"""The default seccomp profile in a real container: what it must stop, and what it must let through.

Each system call is made by a process of its own, with arguments that do no harm where it is let through. A container
without the profile, with the same capabilities, shows that it is the profile that stops a call and not something else.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from ocid.domain import configs as c
from tests.host import test_spec_runs as runs

EPERM: Final = 1
ENOSYS: Final = 38
NEWUSER: Final = 0x1000_0000
SIGCHLD: Final = 17

pytestmark = [
    *runs.pytestmark,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls are numbered as on x86_64"),
]

# name → number and arguments. With the profile: EPERM. Without it: anything else.
STOPPED: Final[dict[str, tuple[int, ...]]] = {
    "keyctl": (250, 0, -3, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "request_key": (249, 0, 0, 0, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 0, 0),
    "unshare of a user namespace": (272, NEWUSER),
    "clone of a user namespace": (56, NEWUSER | SIGCHLD, 0, 0, 0, 0),
    "setns": (308, -1, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "open_tree": (428, -1, 0, 0xFFFF),
    "mount_setattr": (442, -1, 0, 0xFFFFFF, 0, 0),
    "clock_settime": (227, 0, 0),
    "iopl": (172, 9),
    "ioperm": (173, -1, 1, 1),
    "personality without randomisation": (135, 0x0040000),
    "socket of AF_VSOCK": (41, 40, 1, 0),
}
# With the profile: EPERM. Without it a container has not the capability either, which is stopped twice then.
STOPPED_TWICE: Final[dict[str, tuple[int, ...]]] = {
    "bpf": (321, 999, 0, 0),
    "pivot_root": (155, 0, 0),
    "fsopen": (430, 0, 0),
    "move_mount": (429, -1, 0, -1, 0, 0),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, -1, 0, 0),
    "delete_module": (176, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "settimeofday": (164, 0, 0),
    "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "syslog": (103, 10, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0),
}
# Neither EPERM nor ENOSYS, with the profile.
LET_THROUGH: Final[dict[str, tuple[int, ...]]] = {
    "getpid": (39,),
    "clone": (56, SIGCHLD, 0, 0, 0, 0),
    "ptrace of one's own": (101, 0, 0, 0, 0),
    "chown": (92, 0, 0, 0),
    "setuid": (105, 0),
    "mknod": (133, 0, 0, 0),
    "chroot": (161, 0),
    "socket of AF_UNIX": (41, 1, 1, 0),
    "socket of AF_INET": (41, 2, 2, 0),
    "socket of AF_INET6": (41, 10, 1, 0),
    "socket of AF_NETLINK": (41, 16, 3, 0),
    "memfd_create": (319, 0, 0),
    "seccomp": (317, 2, 0, 0),
    "prctl": (157, 39, 0, 0, 0, 0),
    "pidfd_open": (434, 1, 0),
    "close_range": (436, 900, 901, 0),
    "openat2": (437, -1, 0, 0, 0),
    "faccessat2": (439, -1, 0, 0, 0),
    "epoll_pwait2": (441, -1, 0, 1, 0, 0),
    "futex_waitv": (449, 0, 0, 1, 0, 0),
    "statx": (332, -1, 0, 0, 0, 0),
    "getrandom": (318, 0, 0, 0),
    "timerfd_create": (283, 1, 0),
    "inotify_init1": (294, 0),
    "io_setup": (206, 1, 0),
    "membarrier": (324, 0, 0, 0),
    "copy_file_range": (326, -1, 0, -1, 0, 1, 0),
    "name_to_handle_at": (303, -1, 0, 0, 0, 0),
    "process_mrelease": (448, -1, 0),
    "personality that is only asked for": (135, 0xFFFFFFFF),
}
CLONE3: Final = "clone3"  # its flags cannot be seen by a filter: ENOSYS makes C libraries fall back to clone
X32: Final = "getpid of the x32 interface"  # whose numbers go around filters that forget them
OTHERS: Final = {CLONE3: (435, 0, 0), X32: (39 | 0x4000_0000,)}

_PROGRAM: Final = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, (number, *arguments) in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        words = [ctypes.c_long(one) for one in arguments]
        failed = libc.syscall(ctypes.c_long(number), *words) == -1
        os._exit(ctypes.get_errno() if failed else 0)
    found[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return runs._furnished(tmp_path)


def _errors(bundle: Path, calls: dict[str, tuple[int, ...]], profile: c.ProfileType) -> dict[str, int]:
    """Make the calls in a container, and return the error of each: 0 for success, negative for a signal."""
    host = dict.fromkeys(("/usr", "/lib", "/lib64", sys.base_prefix))
    mounts = tuple(
        c.Mount(container_path=path, host_path=os.path.realpath(path), readonly=True)
        for path in host
        if os.path.isdir(path)
    )
    security = {"seccomp": c.SecurityProfile(profile_type=profile)}
    with runs._pinned(bundle) as paths:
        spec: dict[str, Any] = runs._spec(bundle, "", paths, security=security, mounts=mounts)
        python = os.path.realpath(sys.executable)
        spec["process"]["args"] = [python, "-I", "-S", "-c", _PROGRAM, json.dumps(calls)]
        done = runs._run(bundle, spec)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_what_it_must_stop(bundle: Path) -> None:
    calls = {**STOPPED, **STOPPED_TWICE, **OTHERS}
    found = _errors(bundle, calls, c.ProfileType.RUNTIME_DEFAULT)
    assert {name: error for name, error in found.items() if error != EPERM and name not in OTHERS} == {}
    assert found[CLONE3] == ENOSYS
    assert found[X32] != 0


def test_what_it_must_let_through(bundle: Path) -> None:
    found = _errors(bundle, LET_THROUGH, c.ProfileType.RUNTIME_DEFAULT)
    assert {name: error for name, error in found.items() if error < 0 or error in (EPERM, ENOSYS)} == {}


def test_it_is_the_profile_that_stops(bundle: Path) -> None:
    found = _errors(bundle, {**STOPPED, CLONE3: OTHERS[CLONE3]}, c.ProfileType.UNCONFINED)
    assert {name: error for name, error in found.items() if error == EPERM} == {}
    assert found[CLONE3] != ENOSYS
