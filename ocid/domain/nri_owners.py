"""Which plugin set what: two plugins that want the same thing are a conflict, which nobody can settle but a person."""

from __future__ import annotations

from typing import Final

from ocid.domain.nri import Change
from ocid.errors import AlreadyExists

KEY_CHARS_MAX: Final = 128  # of a name in a message


class Owners:
    """The claims made while plugins are asked, one after the other, about one container."""

    def __init__(self, container_id: str) -> None:
        self._container_id = container_id
        self._owners: dict[tuple[str, str], str] = {}

    def claim(self, plugin: str, field: str, key: str = "") -> None:
        """Write down that *plugin* sets *field*, or its entry *key*.

        Raises:
            AlreadyExists: another plugin did so before.
        """
        owner = self._owners.setdefault((field, key), plugin)
        if owner != plugin:
            what = f"{field} {key[:KEY_CHARS_MAX]!r}" if key else field
            raise AlreadyExists(
                f"container {self._container_id}: {what} is set by plugin {owner} and by plugin {plugin}; "
                f"configure one of them not to"
            )

    def note(self, plugin: str, field: str, key: str = "") -> None:
        """Write down a removal, or an addition that conflicts with nothing; the last one to do so is remembered."""
        self._owners[field, key] = plugin

    def clear(self, field: str, key: str = "") -> None:
        """Forget a claim: the thing was removed, and may be set anew by anyone."""
        self._owners.pop((field, key), None)

    def changes(self) -> tuple[Change, ...]:
        """Return all that was set, by plugin."""
        return tuple(
            sorted(Change(plugin=plugin, field=field, key=key) for (field, key), plugin in self._owners.items())
        )
