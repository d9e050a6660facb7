"""What the streaming server asks of the core: whose token this is, and to serve the client that came with it."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from ocid.ports.streaming import Client, ForwardClient


class Kind(StrEnum):
    """What a session is for."""

    EXEC = "exec"
    ATTACH = "attach"
    FORWARD = "portforward"


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the RPC asked for, and a token stands for."""

    session_id: str
    kind: Kind
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    ports: tuple[int, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an exec or attach ended."""

    exit_code: int | None = None
    error: str = ""  # for the client, why it failed


class Sessions(Protocol):
    """The core's side of streaming."""

    def claim(self, token: str) -> Grant | None:
        """Return what a token stands for, once; None for one that is unknown, used or too old."""

    async def serve(self, grant: Grant, client: Client) -> Outcome:
        """Serve an exec or attach to its end."""

    async def forward(self, grant: Grant, client: ForwardClient) -> None:
        """Serve a port-forward until its client has gone."""
