"""The JSON shape of a seccomp profile, in OCI's and in the engines' spelling; field names are those of the files."""

from __future__ import annotations

import msgspec


class SyscallArg(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A comparison of one argument; all of one rule must hold. OCI config-linux.md "Seccomp"."""

    index: int
    value: int
    valueTwo: int = 0
    op: str


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule applies (``includes``) or does not (``excludes``)."""

    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    minKernel: str = ""


class SyscallRule(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to some system calls."""

    names: tuple[str, ...] | None = None
    name: str = ""  # the spelling of the oldest profiles
    action: str
    errnoRet: int | None = None
    args: tuple[SyscallArg, ...] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None

    def all_names(self) -> tuple[str, ...]:
        """The system calls that the rule is about, however they are spelt."""
        return (*(self.names or ()), self.name) if self.name else self.names or ()


class ArchMap(msgspec.Struct, frozen=True, kw_only=True):
    """A native architecture and those that its kernel runs too."""

    architecture: str
    subArchitectures: tuple[str, ...] | None = None


class SeccompProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole profile."""

    defaultAction: str
    defaultErrnoRet: int | None = None
    architectures: tuple[str, ...] | None = None
    archMap: tuple[ArchMap, ...] | None = None
    flags: tuple[str, ...] | None = None
    listenerPath: str = ""
    listenerMetadata: str = ""
    syscalls: tuple[SyscallRule, ...] | None = None
