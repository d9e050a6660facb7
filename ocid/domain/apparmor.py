"""The AppArmor profile that containers get unless they, or the node's configuration, name another.

It lets a container do in its own namespaces what its capabilities allow, and keeps it away from what the kernel shares
with everybody: settings in /proc and /sys, mounts, processes under another profile. Nothing of it is read from the
node's own policy files, so its effect is the same on every node.

Source: apparmor.d(5), whose deny rules win over all others; https://gitlab.com/apparmor/apparmor/-/wikis for the ABIs.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ocid.errors import EffectFailed

PROFILE: Final = "ocid-default"
UNCONFINED: Final = "unconfined"  # what processes without a profile are called
ABIS: Final = ("4.0", "3.0")  # kernel features that this text was written for, the newest first

# Signals come from the host's side: the daemon, and the OCI runtime for it. Since AppArmor 4.0 distributions give runc
# and crun a profile that allows everything, but has a name; some have named it by the program's path.
_SENDERS: Final = (UNCONFINED, "ocid", "{/usr/{,local/}{,s}bin/,}runc", "{/usr/{,local/}{,s}bin/,}crun")
_LABEL: Final = re.compile(r"[A-Za-z0-9_./+:-]{1,512}")  # has no meaning to the parser beyond itself
_NEEDED_SINCE: Final = {"4.0": ("userns", "mqueue", "io_uring")}  # which older ABIs do not mediate

_TEXT: Final = """\
# Made by ocid, which loads it again when it changes. To use another profile, load it and name it in the configuration
# ([security] apparmor_default).
{preamble}
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  # Namespaces, capabilities, file permissions and seccomp decide about these.
  file,
  network,
  unix,
  capability,
  umount,
{more}
  # The host may end and stop its containers; containers under this profile see only each other.
{signals}
  signal (send, receive) peer={name},
  ptrace (read, readby, trace, tracedby) peer={name},

  # A mount would put files where the rules below do not look for them.
  deny mount,

  # In /proc a container may write below directories of processes, and to the settings of its own System V memory.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/ke[^r]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # In /sys it may write to its control group.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/fs/cg[^r]** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how the profile is written on this node."""

    abi: str = ""  # one of ABIS that the parser knows; "" for a parser older than ABIs
    own_label: str = UNCONFINED  # the daemon's own, as in /proc/self/attr/current, without the mode


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Why the default profile is not in force on a kernel that has AppArmor."""

    reason: str
    tool_missing: bool = False  # nobody on this node uses AppArmor: there is no apparmor_parser

    def refuse(self) -> EffectFailed:
        """Return the error for a container that has to have the profile."""
        return EffectFailed(f"apparmor profile {PROFILE!r} is not in force: {self.reason}")


def profile_text(dialect: Dialect) -> str:
    """Write the profile.

    Raises:
        EffectFailed: the daemon is confined under a name that cannot be written into a rule.
    """
    assert dialect.abi in ("", *ABIS), dialect.abi
    senders = list(dict.fromkeys((*_SENDERS, *_own(dialect.own_label))))
    return _TEXT.format(
        name=PROFILE,
        preamble=f"abi <abi/{dialect.abi}>,\n" if dialect.abi else "",
        more="".join(f"  {rule},\n" for rule in _NEEDED_SINCE.get(dialect.abi, ())),
        signals="\n".join(f"  signal (receive) peer={one}," for one in senders),
    )


def label_of(current: str) -> str:
    """Return the label in the text of /proc/PID/attr/current: "unconfined", "name (enforce)"."""
    return current.strip().removesuffix("\0").rpartition(" (")[0] or current.strip()


def modes(profiles: str) -> dict[str, str]:
    """Read the kernel's list of loaded profiles, lines of "name (mode)", into name → mode."""
    found = (line.rpartition(" (") for line in profiles.splitlines())
    return {name: mode.removesuffix(")") for name, _, mode in found}


def _own(label: str) -> tuple[str, ...]:
    if not _LABEL.fullmatch(label):
        raise EffectFailed(f"the daemon is confined by {label[:100]!r}: wanted a name of letters, digits and _./+:-")
    return (label,)
