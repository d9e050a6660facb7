"""A core for tests of the streaming server: what an exec does is named by the id of its session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ocid.errors import EffectFailed
from ocid.ports.sessions import Grant, Kind, Outcome, url
from ocid.ports.streaming import Client, ForwardClient, Output, Size, Tunnel
from ocid.streaming.limits import Limits
from ocid.streaming.server import Server
from ocid.streaming.tokens import Tokens

PIECE = bytes(range(256)) * 256  # 64 KiB
CLOSED_PORT = 9999  # nobody listens there
Run = Callable[[Client, Grant], Awaitable[Outcome]]
Connect = Callable[[Tunnel], Awaitable[None]]


@dataclass
class FakeSessions:
    """Runs what the tests name, and remembers what became of it."""

    tokens: Tokens = field(default_factory=lambda: Tokens(os.urandom, trio.current_time))
    commands: dict[str, Run] = field(default_factory=dict)
    connect: Connect | None = None
    sizes: list[Size] = field(default_factory=list)
    stdin_bytes: int = 0
    written_bytes: int = 0  # of the flood, as far as the client let it
    gone: list[str] = field(default_factory=list)  # sessions whose clients went away
    done: list[str] = field(default_factory=list)  # sessions that ended

    def issue(self, name: str, kind: Kind = Kind.EXEC, **wanted: object) -> str:
        """Grant a session and return the path to it."""
        grant = Grant(session_id=name, kind=kind, **wanted)  # type: ignore[arg-type]
        return url("", kind, self.tokens.issue(grant))

    def claim(self, token: str) -> Grant | None:
        return self.tokens.claim(token)

    async def serve(self, grant: Grant, client: Client) -> Outcome:
        run = self.commands.get(grant.session_id) or getattr(self, f"_{grant.session_id}")
        outcome: Outcome | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, grant, client, nursery.cancel_scope)
            outcome = await run(client, grant)
            nursery.cancel_scope.cancel()
        self.done.append(grant.session_id)
        return outcome or Outcome(exit_code=137)

    async def forward(self, grant: Grant, client: ForwardClient) -> None:
        async with trio.open_nursery() as nursery:
            while (tunnel := await client.accept()) is not None:
                nursery.start_soon(self.connect or echo, tunnel)
        self.gone.append(grant.session_id)

    async def _watch(self, grant: Grant, client: Client, scope: trio.CancelScope) -> None:
        await client.gone()
        self.gone.append(grant.session_id)
        scope.cancel()

    async def _hello(self, client: Client, grant: Grant) -> Outcome:
        await client.write(Output.STDOUT, b"hello ")
        await client.write(Output.STDERR, b"oops")
        await client.write(Output.STDOUT, b"world")
        return Outcome(exit_code=3)

    async def _true(self, client: Client, grant: Grant) -> Outcome:
        return Outcome(exit_code=0)

    async def _cat(self, client: Client, grant: Grant) -> Outcome:
        while data := await client.read_stdin():
            self.stdin_bytes += len(data)
            await client.write(Output.STDOUT, data)
        return Outcome(exit_code=0)

    async def _sink(self, client: Client, grant: Grant) -> Outcome:
        while data := await client.read_stdin():
            self.stdin_bytes += len(data)
        return Outcome(exit_code=0)

    async def _flood(self, client: Client, grant: Grant) -> Outcome:
        for _ in range(4096):  # 256 MiB
            await client.write(Output.STDOUT, PIECE)
            self.written_bytes += len(PIECE)
        return Outcome(exit_code=0)

    async def _large(self, client: Client, grant: Grant) -> Outcome:
        for _ in range(256):  # 16 MiB
            await client.write(Output.STDOUT, PIECE)
            self.written_bytes += len(PIECE)
        return Outcome(exit_code=0)

    async def _wait(self, client: Client, grant: Grant) -> Outcome:
        await trio.sleep_forever()
        raise AssertionError

    async def _shell(self, client: Client, grant: Grant) -> Outcome:
        """Tell each size, and give input back, until the input says exit."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_sizes, client)
            while (data := await client.read_stdin()) and data != b"exit":
                await client.write(Output.STDOUT, data.upper())
            nursery.cancel_scope.cancel()
        return Outcome(exit_code=0)

    async def _tell_sizes(self, client: Client) -> None:
        while True:
            size = await client.next_size()
            self.sizes.append(size)
            await client.write(Output.STDOUT, f"{size.columns}x{size.rows};".encode())

    async def _refused(self, client: Client, grant: Grant) -> Outcome:
        raise EffectFailed("no such program: 'sh'")

    async def _bug(self, client: Client, grant: Grant) -> Outcome:
        raise RuntimeError("unforeseen")


async def echo(tunnel: Tunnel) -> None:
    """What listens on every port: it gives back what it gets, until the client ends; but nobody does on one."""
    if tunnel.port == CLOSED_PORT:
        await tunnel.close(f"cannot connect to port {tunnel.port}: connection refused")
        return
    try:
        while data := await tunnel.read():
            await tunnel.write(data)
    except BrokenPipeError:
        pass
    await tunnel.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds, for ten seconds at most."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (no event tells what happens at the other end of a socket)
            await trio.sleep(0.005)


@asynccontextmanager
async def serving(sessions: FakeSessions, limits: Limits | None = None) -> AsyncIterator[str]:
    """Serve on loopback while the block lasts; yield the base URL."""
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(Server(sessions, limits=limits).serve)
        yield f"http://{host}:{port}"
        nursery.cancel_scope.cancel()
