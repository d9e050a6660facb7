"""Seccomp profiles: read from JSON, and narrowed to one container's capabilities, architecture and kernel.

Two spellings are in use. OCI's is what the OCI runtime takes: architectures and rules. The engines' spelling adds
``archMap`` and, at each rule, ``includes`` and ``excludes``, so that one file serves every container. Both are read.

Source: OCI config-linux.md "Seccomp"; the documented profile format of Docker and containers-common.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from ocid.domain.spec.seccomp_default import ALLOW, DEFAULT_PROFILE
from ocid.domain.spec.seccomp_profile import ArchMap, Condition, SeccompProfile, SyscallRule
from ocid.errors import InvalidRequest

PROFILE_BYTES_MAX: Final = 1024 * 1024  # of a profile file; the fullest known are below 50 KiB
SYSCALLS_MAX: Final = 20_000  # names in one profile

_DECODER: Final = msgspec.json.Decoder(SeccompProfile)
_ACTIONS: Final = frozenset(
    {
        ALLOW,
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    }
)


def parse_profile(raw: bytes) -> SeccompProfile:
    """Read a profile file in either spelling.

    Raises:
        InvalidRequest: it is too large, not JSON, not a profile, or has an unknown action.
    """
    if len(raw) > PROFILE_BYTES_MAX:
        raise InvalidRequest(f"seccomp profile is {len(raw)} bytes, the limit is {PROFILE_BYTES_MAX}")
    try:
        profile = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"seccomp profile cannot be read: {error}") from error
    rules = profile.syscalls or ()
    for action in (profile.defaultAction, *(rule.action for rule in rules)):
        if action not in _ACTIONS:
            raise InvalidRequest(f"seccomp profile has action {action[:64]!r}, wanted one of {sorted(_ACTIONS)}")
    if sum(len(rule.all_names()) for rule in rules) > SYSCALLS_MAX:
        raise InvalidRequest(f"seccomp profile names too many system calls, the limit is {SYSCALLS_MAX}")
    return profile


def resolve_profile(
    profile: SeccompProfile, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]
) -> dict[str, object]:
    """The OCI ``linux.seccomp`` of a container that holds *capabilities* on this host.

    Args:
        capabilities: "CAP_…", the container's bounding set.
        architecture: Go's name, as in image configurations.
        kernel: major and minor version.
    """
    found: dict[str, object] = {"defaultAction": profile.defaultAction}
    if profile.defaultErrnoRet is not None:
        found["defaultErrnoRet"] = profile.defaultErrnoRet
    architectures = list(profile.architectures or ()) or _architectures(profile.archMap or (), architecture)
    if architectures:
        found["architectures"] = architectures
    if profile.flags:
        found["flags"] = list(profile.flags)
    if profile.listenerPath:
        found["listenerPath"] = profile.listenerPath
        found["listenerMetadata"] = profile.listenerMetadata
    found["syscalls"] = [
        _oci_rule(rule)
        for rule in profile.syscalls or ()
        if rule.all_names()
        and _met(rule.includes, capabilities, architecture, kernel)
        and not _excluded(rule.excludes, capabilities, architecture, kernel)
    ]
    return found


@functools.lru_cache(maxsize=64)
def default_seccomp(capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> dict[str, object]:
    """Our own profile for a container; the result is shared between specs and must not be changed."""
    return resolve_profile(DEFAULT_PROFILE, capabilities, architecture, kernel)


def _architectures(mapping: tuple[ArchMap, ...], architecture: str) -> list[str]:
    native = SCMP_ARCH.get(architecture)
    for entry in mapping:
        if entry.architecture == native:
            return [entry.architecture, *(entry.subArchitectures or ())]
    return []


def _met(condition: Condition | None, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    """Whether all that *condition* includes holds; no condition always does."""
    if condition is None:
        return True
    if condition.arches and architecture not in condition.arches:
        return False
    if condition.minKernel and kernel < _version(condition.minKernel):
        return False
    return all(name in capabilities for name in condition.caps or ())


def _excluded(
    condition: Condition | None, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]
) -> bool:
    """Whether anything that *condition* excludes holds."""
    if condition is None:
        return False
    if condition.arches and architecture in condition.arches:
        return True
    if condition.minKernel and kernel >= _version(condition.minKernel):
        return True
    return any(name in capabilities for name in condition.caps or ())


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    minor = minor.partition(".")[0] or "0"
    if not (text.isascii() and major.isdigit() and minor.isdigit()):
        raise InvalidRequest(f"seccomp profile has minKernel {text[:32]!r}, wanted '<major>.<minor>'")
    return int(major), int(minor)


def _oci_rule(rule: SyscallRule) -> dict[str, object]:
    found: dict[str, object] = {"names": list(rule.all_names()), "action": rule.action}
    if rule.errnoRet is not None:
        found["errnoRet"] = rule.errnoRet
    if rule.args:
        found["args"] = [msgspec.to_builtins(arg) for arg in rule.args]
    return found


SCMP_ARCH: Final = {
    "386": "SCMP_ARCH_X86",
    "amd64": "SCMP_ARCH_X86_64",
    "arm": "SCMP_ARCH_ARM",
    "arm64": "SCMP_ARCH_AARCH64",
    "loong64": "SCMP_ARCH_LOONGARCH64",
    "mips64le": "SCMP_ARCH_MIPSEL64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "riscv64": "SCMP_ARCH_RISCV64",
    "s390x": "SCMP_ARCH_S390X",
}
