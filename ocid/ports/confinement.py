"""What the core needs of the node's default AppArmor profile."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ocid.domain.apparmor import Gap


class Confined(msgspec.Struct, frozen=True, kw_only=True):
    """How the default profile stands, for CRI Status."""

    enabled: bool = False  # the kernel has AppArmor
    profile: str = ""  # the default one; "" for none
    mode: str = ""  # as the kernel has it: "enforce", "complain", …; "" while it is not, or not yet, loaded
    problem: str = ""  # why it is not loaded


class Confinement(Protocol):
    """The default AppArmor profile of containers."""

    async def ensure(self) -> Gap | None:
        """Have our own profile in the kernel. Returns why it is not, if it is not; loaded already is success.

        Where another profile is the default, or none, or the kernel has no AppArmor, there is nothing to do.
        """

    def standing(self) -> Confined:
        """Return how it stands, from memory."""


class NoConfinement:
    """A kernel without AppArmor."""

    async def ensure(self) -> Gap | None:
        """There is nothing to load."""
        return None

    def standing(self) -> Confined:
        """There is none."""
        return Confined()
