"""A pod's user namespace with the namespaces that it owns.

A process of many threads cannot enter a new user namespace, so a small one is run that does: it makes the user
namespace first and the others in it, says so, and waits. It is given its mappings from outside, its namespaces are
furnished and pinned, and it ends; when the daemon dies meanwhile, it ends too, for its input does.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from ocid.adapters import linux
from ocid.adapters.command import find_tool, tool_environment
from ocid.domain.configs import IdMapping, UserNamespace
from ocid.domain.sysctls import path_of
from ocid.errors import EffectFailed, tail

SPEAK_S: Final = 10.0
_FLAGS: Final = {"ipc": linux.CLONE_NEWIPC, "uts": linux.CLONE_NEWUTS, "net": linux.CLONE_NEWNET}


@contextmanager
def made(kinds: list[str], users: UserNamespace) -> Iterator[str]:
    """Make a user namespace and namespaces of *kinds* in it; yield the directory of their files while they live.

    Raises:
        EffectFailed: the kernel refused; the message says what.
    """
    words = [find_tool("unshare"), "--user", *(f"--{kind}" for kind in kinds), "--", find_tool("cat")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=tool_environment(), cwd="/") as helper:
        try:
            assert helper.stdin is not None
            assert helper.stdout is not None
            assert helper.stderr is not None
            with suppress(BrokenPipeError):  # it has failed already
                os.write(helper.stdin.fileno(), b"\n")
            ready, _, _ = select.select([helper.stdout], [], [], SPEAK_S)
            if not ready or not os.read(helper.stdout.fileno(), 1):
                helper.kill()
                raise EffectFailed(f"user namespace: {tail(helper.stderr.read()) or 'no answer'}")
            _write_map(helper.pid, "uid_map", users.uids)
            _write_map(helper.pid, "gid_map", users.gids)
            yield f"/proc/{helper.pid}/ns"
        finally:
            helper.kill()


def enter(directory: str, kinds: list[str]) -> None:
    """Move the calling thread, which must end soon, into the namespaces of *kinds* under *directory*."""
    for kind in kinds:
        linux.enter_pinned(f"{directory}/{kind}", _FLAGS[kind])


def write_as_root(directory: str, sysctls: Mapping[str, str]) -> None:
    """Write IPC parameters as the root of the user namespace under *directory*, whose they are alone.

    Raises:
        EffectFailed: the kernel refused; the message names the sysctl.
    """
    into = [f"--user={directory}/user", f"--ipc={directory}/ipc", "--setuid=0", "--setgid=0", "--"]
    for name, value in sysctls.items():
        words = [find_tool("nsenter"), *into, find_tool("tee"), f"/proc/sys/{path_of(name)}"]
        try:
            done = subprocess.run(
                words, input=value.encode(), capture_output=True, env=tool_environment(), timeout=SPEAK_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EffectFailed(f"sysctl {name!r} = {value[:100]!r}: no answer in {SPEAK_S:g} s") from error
        if done.returncode != 0:
            raise EffectFailed(f"sysctl {name!r} = {value[:100]!r}: {tail(done.stderr).rpartition(': ')[2]}")


def _write_map(pid: int, name: str, mappings: tuple[IdMapping, ...]) -> None:
    text = "".join(f"{one.container_id} {one.host_id} {one.length}\n" for one in mappings)
    try:
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise EffectFailed(f"{name} {text.strip()!r} of a user namespace: {error.strerror}") from error
