"""Wishes that a pod's confidential documents be erased, from the command line to the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ocid.ids import PodId

REASON_CHARS_MAX = 256


class ErasureWish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants erased."""

    pod_id: PodId
    reason: str
    login_uid: int  # of whoever wants it; 2**32 - 1 means none was set


class ErasureWishes(Protocol):
    """Wishes that were not looked at yet."""

    def pending(self) -> Sequence[ErasureWish]:
        """Return some of them; none is there when none is returned."""

    def settle(self, pod_id: PodId) -> None:
        """Forget the wish about *pod_id*, granted or refused."""
