"""What a log's reader knows of the pods' confidential texts. See ``ocid.journal.vault`` for how they are kept."""

from __future__ import annotations

import time

from ocid.domain.confidential import Confidential
from ocid.errors import NotFound
from ocid.ids import Digest, PodId
from ocid.journal import vault
from ocid.journal.environment import Pages


class Confiding(Pages):
    """The pods' confidential texts of one log. Any thread may read."""

    def confidential(self, digest: Digest) -> Confidential:
        """Return a confidential document with its salt and its pod.

        Raises:
            NotFound: no event ever brought it.
            Erased: it was erased.
            Damaged: it is not what was kept.
        """
        with self._reading() as txn:
            found = vault.get(txn, self._db[vault.NAME], digest)
        if found is None:
            raise NotFound("document", digest)
        return found

    def confiding_pods(self, beginning: str, limit: int) -> list[PodId]:
        """Return up to *limit* pods that have confidential documents and whose ids begin so."""
        with self._reading() as txn:
            return vault.pods(txn, self._db[vault.NAME], beginning, limit)

    def confidences(self, pod_id: PodId) -> int:
        """Return how many confidential documents of a pod there are."""
        with self._reading() as txn:
            return vault.count(txn, self._db[vault.NAME], pod_id)

    def check_confidences(self, transaction_s: float) -> int:
        """Read every confidential document, in transactions of so many seconds, and return how many there are.

        Raises:
            Damaged: one is not what was kept.
        """
        count = 0
        after: bytes | None = b""
        while after is not None:
            until = time.monotonic() + transaction_s
            with self._reading() as txn:
                checked, after = vault.check(txn, self._db[vault.NAME], after, until)
            count += checked
        return count
