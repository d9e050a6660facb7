"""Erasing the confidential documents of pods that are gone, as somebody with the node's command line wishes."""

from __future__ import annotations

import logging

import trio

from ocid.actors.salts import Salts
from ocid.actors.sealing import Sealer
from ocid.events.log import Erased
from ocid.ports.erasures import ErasureWish, ErasureWishes
from ocid.ports.log import ErasingJournal
from ocid.projections.view import View

log = logging.getLogger(__name__)

PERIOD_S = 1.0  # between two looks for wishes
SWEPT_AT_ONCE = 500  # documents in one commit, so that nobody's append waits long


class Eraser:
    """Grants wishes one after the other; a wish that came while no daemon ran is granted by the next one."""

    def __init__(
        self,
        journal: ErasingJournal,
        sealer: Sealer,
        wishes: ErasureWishes,
        salts: Salts,
        view: View,
    ) -> None:
        """*view* follows the log: it says which pods and containers are on the node, in whatever state."""
        self._journal = journal
        self._sealer = sealer
        self._wishes = wishes
        self._salts = salts
        self._view = view

    async def run(self) -> None:
        """Grant wishes until cancelled."""
        await self._sweep()  # what the last life did not come to
        while True:
            for wish in self._wishes.pending():
                await self._grant(wish)
                self._wishes.settle(wish.pod_id)
            await trio.sleep(PERIOD_S)

    async def _grant(self, wish: ErasureWish) -> None:
        if wish.pod_id in self._view.pods.rows or wish.pod_id in self._view.containers.by_pod:
            log.error("nothing of pod %s is erased: it is still on this node; remove it first", wish.pod_id)
            return
        entries = await self._journal.confidences(wish.pod_id)
        if not entries:
            log.error("nothing of pod %s is erased: the log has no confidential documents of it", wish.pod_id)
            return
        event = Erased(pod_id=wish.pod_id, entries=entries, reason=wish.reason, login_uid=wish.login_uid)
        await self._sealer.erase(event)
        self._salts.forget(wish.pod_id)
        await self._sweep()

    async def _sweep(self) -> None:
        while await self._journal.sweep_erased(SWEPT_AT_ONCE):
            pass
