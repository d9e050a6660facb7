"""Whether a ``config.json`` is what the OCI runtime specification says, and what its rules beyond the JSON demand.

``validate`` is pure. What only the host can tell (is there a root file system, can the hook be executed) is told to it:
``paths_of`` says which paths matter, the caller looks at them.

Source: OCI runtime-spec config.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

import msgspec

from ocid.domain.spec.validate_linux import PROPAGATIONS, linux, mappings, namespace_paths
from ocid.domain.spec.validate_process import HOOKS, hooks, process
from ocid.domain.spec.validate_shape import (
    Check,
    Fault,
    absolute,
    also,
    boolean,
    every,
    fault,
    fields,
    items,
    mapping,
    part,
    shown,
    string,
    word,
)

__all__ = ["CONFIG_BYTES_MAX", "Fault", "Found", "decode", "paths_of", "validate"]

CONFIG_BYTES_MAX: Final = 16 * 1024 * 1024  # of a config.json; those with the largest seccomp profiles are below 1 MiB
HOSTNAME_BYTES_MAX: Final = 64  # HOST_NAME_MAX, sethostname(2)
IN_CONTAINER: Final = ("startContainer",)  # hooks whose path is looked up in the container's root

_VERSION: Final = re.compile(r"([0-9]+)\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?")
_BINDS: Final = frozenset({"bind", "rbind"})


class Found(StrEnum):
    """What is at a path of the host."""

    NOTHING = "nothing"
    DIRECTORY = "a directory"
    FILE = "a file that cannot be executed"
    PROGRAM = "a file that can be executed"


def decode(raw: bytes) -> tuple[object, tuple[Fault, ...]]:
    """Read a config.json; what cannot be read is a fault of the whole."""
    if len(raw) > CONFIG_BYTES_MAX:
        return None, (Fault(".", f"is {len(raw)} bytes, the limit is {CONFIG_BYTES_MAX}"),)
    try:
        return msgspec.json.decode(raw), ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, (Fault(".", f"is no JSON: {error}"),)


def validate(spec: object, found: Mapping[str, Found] | None = None, bundle: str = "/") -> tuple[Fault, ...]:
    """Return everything that is wrong with *spec*, in its own order.

    Args:
        spec: a decoded config.json.
        found: what is at the paths that ``paths_of`` names; None to leave the host alone.
        bundle: absolute path of the directory that relative paths start from.
    """
    faults: list[Fault] = []
    _CONFIG(spec, "", faults)
    if found is not None:
        for where, path, wanted in _wanted(spec, bundle):
            is_there = found.get(path, Found.NOTHING)
            if is_there is not wanted:
                fault(faults, where, f"is {shown(path)}, where {is_there} is; wanted {wanted}")
    return tuple(faults)


def paths_of(spec: object, bundle: str) -> tuple[str, ...]:
    """Return the paths of the host that ``validate`` wants to know about."""
    return tuple(path for _, path, _ in _wanted(spec, bundle))


def _wanted(spec: object, bundle: str) -> list[tuple[str, str, Found]]:
    """What must be where: the root file system, and the programs of hooks."""
    path = part(part(spec, "root"), "path")
    if not isinstance(path, str) or not path or "\0" in path:
        return []
    rootfs = PurePosixPath(bundle) / path
    wanted = [("root.path", str(rootfs), Found.DIRECTORY)]
    for kind in HOOKS:
        these = part(part(spec, "hooks"), kind)
        for index, hook in enumerate(these if isinstance(these, list) else []):
            program = part(hook, "path")
            if isinstance(program, str) and program.startswith("/") and "\0" not in program:
                base = rootfs if kind in IN_CONTAINER else PurePosixPath("/")
                wanted.append((f"hooks.{kind}[{index}].path", str(base / program.lstrip("/")), Found.PROGRAM))
    return wanted


# --- shapes ----------------------------------------------------------------------------------------------------------


def _version(value: object, path: str, faults: list[Fault]) -> None:
    found = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        fault(faults, path, f"is {shown(value)}, wanted a semantic version such as 1.2.0")
    elif found[1] != "1":
        fault(faults, path, f"is {shown(value)}, wanted a version 1")


def _options(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    options = value.get("options") or []
    for index, option in enumerate(options):
        if "," in option and "=" not in option:
            fault(faults, f"{path}.options[{index}]", f"is {shown(option)}, wanted one option in each string")
    if value.get("type") == "bind" or _BINDS & set(options):
        if not value.get("source"):
            fault(faults, f"{path}.source", "is missing, wanted for a bind mount")
    elif not value.get("type") and set(options) - PROPAGATIONS - {"remount"}:
        fault(faults, f"{path}.type", "is missing, wanted unless the options have bind or rbind")
    modes = [option for option in options if option in PROPAGATIONS]
    if len({mode.removeprefix("r") for mode in modes}) > 1:
        fault(faults, f"{path}.options", f"has {' and '.join(modes)}, wanted one propagation")
    if bool(value.get("uidMappings")) != bool(value.get("gidMappings")):
        fault(faults, path, "has uidMappings or gidMappings, wanted both or none")


def _host_names(value: object, path: str, faults: list[Fault]) -> None:
    """A name that is set without a UTS namespace would be the host's."""
    own = namespace_paths(part(value, "linux"))
    for name in ("hostname", "domainname"):
        if part(value, name) and "uts" not in own:
            fault(faults, name, "is set, wanted a uts namespace beside it")


def _host_name(value: object, path: str, faults: list[Fault]) -> None:
    string(value, path, faults)
    if isinstance(value, str) and len(value.encode()) > HOSTNAME_BYTES_MAX:
        fault(faults, path, f"is {len(value.encode())} bytes, the limit is {HOSTNAME_BYTES_MAX}")


_MOUNT: Final = also(
    fields(
        {
            "type": string,
            "source": string,
            "options": items(string),
            "uidMappings": mappings,
            "gidMappings": mappings,
        },
        {"destination": absolute},
    ),
    _options,
)
_CONFIG: Final[Check] = every(
    fields(
        {
            "process": process,
            "hostname": _host_name,
            "domainname": _host_name,
            "mounts": items(_MOUNT),
            "hooks": hooks,
            "annotations": mapping(string),
            "linux": linux,
        },
        {"ociVersion": _version, "root": fields({"readonly": boolean}, {"path": word})},
    ),
    _host_names,
)
