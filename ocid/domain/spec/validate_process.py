"""What an OCI spec's ``process`` and ``hooks`` must be.

Source: OCI runtime-spec config.md, "Process", "POSIX process", "Linux Process", "User", "POSIX-platform Hooks";
capabilities(7), getrlimit(2), ioprio_set(2), sched_setattr(2).
"""

from __future__ import annotations

from typing import Final

from ocid.domain.spec.capabilities import ALL_CAPABILITIES
from ocid.domain.spec.validate_shape import (
    INT64,
    UINT32,
    UINT64,
    Check,
    Fault,
    absolute,
    also,
    boolean,
    fault,
    fields,
    integer,
    items,
    one_of,
    prefixed,
    shown,
    string,
    word,
)

RLIMITS: Final = prefixed(
    "RLIMIT_", "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"
)
CAPABILITY_SETS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
IO_CLASSES: Final = prefixed("IOPRIO_CLASS_", "RT BE IDLE")
POLICIES: Final = prefixed("SCHED_", "OTHER FIFO RR BATCH ISO IDLE DEADLINE")
SCHEDULER_FLAGS: Final = prefixed(
    "SCHED_FLAG_", "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"
)


def _variable(value: object, path: str, faults: list[Fault]) -> None:
    string(value, path, faults)
    if isinstance(value, str) and not value.partition("=")[1]:
        fault(faults, path, f"is {shown(value)}, wanted NAME=value")
    elif isinstance(value, str) and value.startswith("="):
        fault(faults, path, f"is {shown(value)}, which has no name")


def _limits_once(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, list)
    seen = set()
    for index, limit in enumerate(value):
        if limit["type"] in seen:
            fault(faults, f"{path}[{index}].type", f"is {limit['type']} once more, wanted each limit once")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            fault(faults, f"{path}[{index}].soft", f"is {limit['soft']}, above the hard limit {limit['hard']}")


def _sets_fit(value: object, path: str, faults: list[Fault]) -> None:
    """The kernel refuses sets that do not fit into each other.

    An ambient capability that is not inheritable is left out by OCI runtimes, whose own templates have such.
    """
    assert isinstance(value, dict)
    sets = {name: frozenset(value.get(name) or ()) for name in CAPABILITY_SETS}
    for inner, outer in (("effective", "permitted"), ("ambient", "permitted")):
        for name in sorted(sets[inner] - sets[outer]):
            fault(faults, f"{path}.{inner}", f"has {name}, which {outer} has not")
    for name in sorted((sets["permitted"] | sets["inheritable"]) - sets["bounding"]):
        fault(faults, f"{path}.bounding", f"has not {name}, which permitted or inheritable has")


def _arguments(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, list)
    if not value[0]:
        fault(faults, f"{path}[0]", "is empty, wanted a program")


_CAPABILITIES: Final = also(fields({name: items(one_of(ALL_CAPABILITIES)) for name in CAPABILITY_SETS}), _sets_fit)
_RLIMITS: Final = also(
    items(fields({}, {"type": one_of(RLIMITS), "soft": integer(*UINT64), "hard": integer(*UINT64)})), _limits_once
)
_USER: Final = fields(
    {
        "umask": integer(0, 0o777),
        "additionalGids": items(integer(*UINT32)),
        "username": string,
    },
    {"uid": integer(*UINT32), "gid": integer(*UINT32)},
)
_SCHEDULER: Final = fields(
    {
        "nice": integer(-20, 19),
        "priority": integer(-(2**31), 2**31 - 1),
        "flags": items(one_of(SCHEDULER_FLAGS)),
        "runtime": integer(*UINT64),
        "deadline": integer(*UINT64),
        "period": integer(*UINT64),
    },
    {"policy": one_of(POLICIES)},
)

process: Final[Check] = fields(
    {
        "terminal": boolean,
        "consoleSize": fields({}, {"height": integer(*UINT32), "width": integer(*UINT32)}),
        "env": items(_variable),
        "capabilities": _CAPABILITIES,
        "rlimits": _RLIMITS,
        "noNewPrivileges": boolean,
        "apparmorProfile": string,
        "selinuxLabel": string,
        "oomScoreAdj": integer(-1000, 1000),
        "scheduler": _SCHEDULER,
        "ioPriority": fields({"priority": integer(0, 7)}, {"class": one_of(IO_CLASSES)}),
        "execCPUAffinity": fields({"initial": string, "final": string}),
    },
    {"cwd": absolute, "args": also(items(string, least=1), _arguments), "user": _USER},
)

_HOOK: Final = fields(
    {"args": items(string), "env": items(_variable), "timeout": integer(1, INT64[1])},
    {"path": also(word, absolute)},
)
hooks: Final[Check] = fields({name: items(_HOOK) for name in HOOKS})
