"""What plugins want of containers that exist, gathered over all that were asked. Pure but for its own memory."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ocid.domain.nri import Change, Resources, Update, overlaid
from ocid.domain.nri_apply import changed_resources
from ocid.domain.nri_limits import check_changeable
from ocid.domain.nri_owners import Owners
from ocid.errors import AlreadyExists, InvalidRequest, Unsupported


class Updates:
    """The updates of one request, by container, in the order in which they came."""

    def __init__(self) -> None:
        self._owners: dict[str, Owners] = {}
        self._wanted: dict[str, Update] = {}

    def take(self, updates: Iterable[Update], plugin: str) -> None:
        """Add what *plugin* wants.

        Raises:
            AlreadyExists: it sets what a plugin before it has set, and says that this must not fail.
            Unsupported: it sets something that cannot change, and says that this must not fail.
            InvalidRequest: it sets something that means nothing, and says that this must not fail.
        """
        for update in updates:
            try:
                self._take(update, plugin)
            except (AlreadyExists, InvalidRequest, Unsupported):
                if not update.ignore_failure:
                    raise

    def all(self) -> tuple[Update, ...]:
        """Return them, one for each container."""
        return tuple(self._wanted.values())

    def of(self, container_id: str) -> Resources | None:
        """Return what is wanted of one container."""
        update = self._wanted.get(container_id)
        return None if update is None else update.resources

    def changes(self, container_id: str) -> tuple[Change, ...]:
        """Return which plugin wants what of one container."""
        owners = self._owners.get(container_id)
        return () if owners is None else owners.changes()

    def _take(self, update: Update, plugin: str) -> None:
        wanted = update.resources
        check_changeable(wanted, plugin)
        owners = self._owners.setdefault(update.container_id, Owners(update.container_id))
        changed_resources({}, wanted, lambda field, key: owners.claim(plugin, field, key))
        before = self._wanted.get(update.container_id)
        update = msgspec.structs.replace(update, plugins=(plugin,))
        if before is not None:
            both = overlaid(before.resources, wanted)
            assert both is not None, "both are there"
            update = msgspec.structs.replace(
                update,
                resources=both,
                ignore_failure=before.ignore_failure and update.ignore_failure,
                plugins=tuple(dict.fromkeys((*before.plugins, plugin))),
            )
        self._wanted[update.container_id] = update
