"""Salts of the pods' confidential texts, remembered for a while, so that what is said again is kept once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from ocid.domain.confidential import Confidential
from ocid.ids import PodId

KEPT: Final = 512  # newest texts; enough for the probes of a full node, which come every few seconds


class Salts:
    """The salts of the texts that were confided last. One more of a text costs its bytes once more, nothing else."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[PodId, bytes], bytes] = OrderedDict()

    def confide(self, pod_id: PodId, text: bytes, make: Callable[[], bytes]) -> Confidential:
        """Return *text* with the salt that it had in this pod, or with one of *make*."""
        key = (pod_id, sha256(text).digest())
        salt = self._kept.get(key)
        if salt is None:
            salt = self._kept[key] = make()
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return Confidential(pod_id, salt, text)

    def forget(self, pod_id: PodId) -> None:
        """Forget the salts of a pod whose texts were erased."""
        for key in [key for key in self._kept if key[0] == pod_id]:
            del self._kept[key]
