"""Who keeps checkpoints where the node's root cannot change them."""

from __future__ import annotations

from typing import Protocol


class Witness(Protocol):
    """One place off the node that signed checkpoints are sent to."""

    @property
    def name(self) -> str:
        """What it is called in the configuration, in Status and in the log; no secret is part of it."""

    @property
    def kind(self) -> str:
        """How it is reached: "file", "syslog", "http" or "otlp"."""

    @property
    def keeps_all(self) -> bool:
        """Whether it is sent every checkpoint, or only the newest when it could not keep up."""

    async def keep(self, note: str) -> None:
        """Hand over one checkpoint, a signed note, and return when it is confirmed as well as the way allows.

        A note may be handed over twice. May be cancelled; whether the note arrived is not known then.

        Raises:
            OcidError: it was not confirmed. The message holds no secret, and nothing that the other side sent.
        """
