"""What the server does with a client of exec or attach, whatever carries its streams."""

from __future__ import annotations

from typing import Protocol

from ocid.ports.sessions import Outcome
from ocid.ports.streaming import Client
from ocid.streaming.status import status_json, status_text
from ocid.streaming.upgrade import STATUS_PROTOCOLS


class CommandClient(Client, Protocol):
    """A client of exec or attach, with what the core does not see of it.

    A client that goes away has ended its input too: whoever must tell the two apart asks ``gone`` first.
    """

    async def run(self) -> None:
        """Read what the client sends until it is gone."""

    async def ready(self) -> None:
        """Wait until the client has made its streams, or is gone.

        Raises:
            Unavailable: it took too long.
        """

    async def finish(self, outcome: Outcome) -> None:
        """Tell the client how it ended, and that nothing more comes. It closes the connection then."""


def told(outcome: Outcome, protocol: str) -> bytes:
    """Write how it ended, for the error channel of a subprotocol."""
    return status_json(outcome) if protocol in STATUS_PROTOCOLS else status_text(outcome)
