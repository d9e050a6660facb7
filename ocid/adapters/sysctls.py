"""Writing kernel parameters in a pod's namespaces, from a thread that has entered them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ocid.adapters import linux
from ocid.adapters.command import find_tool, run
from ocid.domain import sysctls
from ocid.errors import EffectFailed, OcidError, Unavailable

_TOOL_S: Final = 10.0


def write(wanted: Mapping[str, str]) -> None:
    """Write parameters in the calling thread's namespaces.

    Raises:
        EffectFailed: the kernel has no such parameter there, or refuses the value; the message names it.
    """
    for name, value in wanted.items():
        try:
            with open(f"/proc/sys/{sysctls.path_of(name)}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            raise EffectFailed(_refusal(name, value, error.strerror or "refused")) from error


def write_inside(wanted: Mapping[str, str], namespace: str, flags: int) -> None:
    """Enter the namespace pinned at *namespace* with the calling thread, which must end soon, and write there.

    Raises:
        EffectFailed: the namespace is gone, or the kernel refuses.
    """
    try:
        linux.enter(namespace, flags)
    except OSError as error:
        raise EffectFailed(f"namespace {namespace!r}: {error.strerror}") from error
    write(wanted)


async def write_as_root_of(wanted: Mapping[str, str], users: str, kind: str, namespace: str) -> None:
    """Write as the root of a user namespace: IPC parameters belong to it alone, and its pid is not ours to take.

    Args:
        users, namespace: where the user namespace, and the one of *kind* ("ipc"), are pinned.
    Raises:
        EffectFailed: the kernel refuses.
    """
    enter = [find_tool("nsenter"), f"--user={users}", f"--{kind}={namespace}", "--setuid=0", "--setgid=0", "--"]
    for name, value in wanted.items():
        words = [*enter, find_tool("tee"), f"/proc/sys/{sysctls.path_of(name)}"]
        doing = f"sysctl {name!r}"
        try:
            done = await run(words, doing=doing, timeout_s=_TOOL_S, check=False, stdin=value.encode())
        except Unavailable:
            raise
        except OcidError as error:
            raise EffectFailed(error.message) from error
        if done.exit_code != 0:
            said = done.stderr.decode("utf-8", "replace").strip().rpartition(": ")[2]
            raise EffectFailed(_refusal(name, value, said))


def _refusal(name: str, value: str, why: str) -> str:
    return f"sysctl {name!r} = {value[:100]!r}: {why}"
