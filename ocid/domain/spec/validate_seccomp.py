"""What an OCI spec's ``linux.seccomp`` must be.

Source: OCI runtime-spec config-linux.md, "Seccomp"; seccomp(2).
"""

from __future__ import annotations

from typing import Final

from ocid.domain.spec.validate_shape import (
    UINT32,
    UINT64,
    Check,
    Fault,
    absolute,
    also,
    fault,
    fields,
    integer,
    items,
    one_of,
    prefixed,
    string,
    word,
)

ACTIONS: Final = prefixed("SCMP_ACT_", "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY")
ARCHITECTURES: Final = prefixed(
    "SCMP_ARCH_",
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC "
    "PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB",
)
FLAGS: Final = prefixed("SECCOMP_FILTER_FLAG_", "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV")
OPERATORS: Final = prefixed("SCMP_CMP_", "NE LT LE EQ GE GT MASKED_EQ")
WITH_ERRNO: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the actions that return a number
NOTIFY: Final = "SCMP_ACT_NOTIFY"

_ARGUMENT: Final = fields(
    {"valueTwo": integer(*UINT64)},
    {"index": integer(0, 5), "value": integer(*UINT64), "op": one_of(OPERATORS)},
)
_SYSCALL: Final = fields(
    {"errnoRet": integer(*UINT32), "args": items(_ARGUMENT)},
    {"names": items(word, least=1), "action": one_of(ACTIONS)},
)


def _consistent(value: object, path: str, faults: list[Fault]) -> None:
    assert isinstance(value, dict)
    rules = value.get("syscalls") or []
    if value["defaultAction"] == NOTIFY:
        fault(faults, f"{path}.defaultAction", f"is {NOTIFY}, with which the agent itself would wait for its answer")
    _number(value, "defaultErrnoRet", "defaultAction", path, faults)
    for index, rule in enumerate(rules):
        at = f"{path}.syscalls[{index}]"
        _number(rule, "errnoRet", "action", at, faults)
        if rule["action"] == NOTIFY and not value.get("listenerPath"):
            fault(faults, f"{at}.action", f"is {NOTIFY}, wanted a listenerPath beside it")
        if rule["action"] == NOTIFY and "write" in rule["names"]:
            fault(faults, f"{at}.names", f"has write with {NOTIFY}, without which the listener is never reached")
    if value.get("listenerMetadata") and not value.get("listenerPath"):
        fault(faults, f"{path}.listenerMetadata", "is set, wanted a listenerPath beside it")


def _number(rule: dict[str, object], name: str, action: str, path: str, faults: list[Fault]) -> None:
    if rule.get(name) is not None and rule[action] not in WITH_ERRNO:
        fault(faults, f"{path}.{name}", f"is set, but {rule[action]} returns no number")


seccomp: Final[Check] = also(
    fields(
        {
            "defaultErrnoRet": integer(*UINT32),
            "architectures": items(one_of(ARCHITECTURES)),
            "flags": items(one_of(FLAGS)),
            "listenerPath": absolute,
            "listenerMetadata": string,
            "syscalls": items(_SYSCALL),
        },
        {"defaultAction": one_of(ACTIONS)},
    ),
    _consistent,
)
