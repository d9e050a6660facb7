"""What the streaming server asks of the core: who may have which session, and to run it."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from ocid.ports.streaming import Client, ForwardClient


class Kind(StrEnum):
    """The sessions that a client can have. The value is the first part of the path."""

    EXEC = "exec"
    ATTACH = "attach"
    FORWARD = "portforward"


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the RPC asked for, and whoever brings the token gets once."""

    session_id: str
    kind: Kind
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    ports: tuple[int, ...] = ()  # in the pod; with none, whatever the client names


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an exec or attach ended, for the client."""

    exit_code: int | None = None  # 0 to 255; None for attach, and where nobody knows
    error: str = ""  # why it failed; goes before the exit code


class Sessions(Protocol):
    """The core, as the streaming server sees it."""

    def claim(self, token: str) -> Grant | None:
        """Redeem a token, once; None for one that was never issued, is too old, or was redeemed before."""

    async def serve(self, grant: Grant, client: Client) -> Outcome:
        """Run an exec or attach to its end. The client stays usable until this returns."""

    async def forward(self, grant: Grant, client: ForwardClient) -> None:
        """Serve the connections of a port-forward until the client has gone away."""


def url(base: str, kind: Kind, token: str) -> str:
    """Say where a client finds its session. *base* has a scheme and an authority: "http://127.0.0.1:10010"."""
    return f"{base.rstrip('/')}/{kind}/{token}"
