"""Texts that belong to a pod and can be erased with it: command lines, configurations, specifications. Pure.

A record cites such a text by a salted commitment instead of its digest: ``sha256(salt ‖ text)``, written like one.
The log keeps salt and text together under a key of the pod's own, so that what is left once they are erased, the
commitment, proves nothing and lets nobody guess, while every hash and proof over the records stays what it was.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from ocid.ids import Digest, PodId

SALT_BYTES: Final = 32


class Confidential(msgspec.Struct, frozen=True, gc=False):
    """One text of a pod, to be kept where it can be erased."""

    pod_id: PodId
    salt: bytes  # 32 random bytes
    text: bytes

    @property
    def digest(self) -> Digest:
        """The commitment that a record cites it by."""
        return Digest("sha256:" + hashlib.sha256(self.salt + self.text).hexdigest())


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """All texts of a pod are to be erased, in the commit of the event that says so."""

    pod_id: PodId


Document = bytes | Confidential  # what a record can cite
Beside = Document | Erasure  # what can go into the commit of events


def text_of(document: Document) -> bytes:
    """Return what *document* says."""
    return document.text if isinstance(document, Confidential) else document
