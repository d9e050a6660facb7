"""A command in a running container with a client as its standard streams, or as its terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import trio

from ocid.adapters import terminal
from ocid.adapters.execs import Command, Execs
from ocid.adapters.handlers import Handler, InitState
from ocid.adapters.pumps import Feed, Pump, pipe
from ocid.errors import EffectFailed, tail
from ocid.ids import ExecId
from ocid.ports import ContainerOrder
from ocid.ports.streaming import Client, Output, Size, StreamEnd

SIZE_S: Final = 0.05  # how long a command waits for the first size of its terminal: clients tell it at once
WENT_AWAY: Final = "the client went away"


class Execution:
    """One command that a client runs.

    Args:
        scratch: directory of console sockets.
    """

    def __init__(
        self,
        execs: Execs,
        scratch: Path,
        handler: Handler,
        order: ContainerOrder,
        state: InitState | None,
        exec_id: ExecId,
        client: Client,
    ) -> None:
        self._execs = execs
        self._scratch = scratch
        self._handler = handler
        self._order = order
        self._state = state
        self._exec_id = exec_id
        self._client = client

    async def with_pipes(self, spec: Mapping[str, Any], *, stdin: bool) -> StreamEnd:
        """Run the command with three pipes; without *stdin* it reads from /dev/null.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """
        client = self._client
        with _pipes(stdin=stdin) as (theirs, ours):
            launched = self._execs.launched(self._handler, self._order, self._state, self._exec_id, spec, theirs)
            async with launched as command:
                for descriptor in theirs.values():
                    os.close(descriptor)
                theirs.clear()
                feed = Feed(ours.pop(0), client, closes=True) if stdin else None
                pumps = [Pump(ours[1], Output.STDOUT, client), Pump(ours[2], Output.STDERR, client)]
                try:
                    reason = await self._serve(command, feed, pumps)
                finally:
                    if feed is not None:
                        feed.close()
        return StreamEnd(
            exit_code=command.exit_code,
            stdin_bytes=0 if feed is None else feed.total,
            stdout_bytes=pumps[0].total,
            stderr_bytes=pumps[1].total,
            reason=reason,
        )

    async def with_terminal(self, spec: Mapping[str, Any], *, stdin: bool) -> StreamEnd:
        """Run the command on a terminal of its own; without *stdin* nobody types on it.

        Raises:
            WrongState: the container does not run.
            EffectFailed: the command could not be executed.
        """
        spec = await self._sized(spec)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            with terminal.console(self._scratch / f"{self._exec_id}.s") as console:
                words = ["--console-socket", str(console.path)]
                async with self._execs.launched(
                    self._handler, self._order, self._state, self._exec_id, spec, dict.fromkeys((0, 1, 2), null), words
                ) as command:
                    if await command.launch() is None:
                        self._raise_refusal(command)
                    return await self._on_terminal(command, console.receive(), spec, stdin=stdin)
        finally:
            os.close(null)

    async def _sized(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the terminal the client's size from the beginning, so that no program ever sees another one."""
        with trio.move_on_after(SIZE_S):
            size = await self._client.next_size()
            return {**spec, "consoleSize": {"height": size.rows, "width": size.columns}}
        return spec

    async def _on_terminal(
        self, command: Command, descriptor: int, spec: Mapping[str, Any], *, stdin: bool
    ) -> StreamEnd:
        try:
            if "consoleSize" in spec:  # for a runtime that does not heed it
                known = spec["consoleSize"]
                terminal.resize(descriptor, Size(rows=known["height"], columns=known["width"]))
            feed = Feed(descriptor, self._client, closes=False) if stdin else None
            pump = Pump(descriptor, Output.STDOUT, self._client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(terminal.follow_size, descriptor, self._client)
                reason = await self._serve(command, feed, [pump])
                nursery.cancel_scope.cancel()
        finally:
            os.close(descriptor)
        return StreamEnd(
            exit_code=command.exit_code,
            stdin_bytes=0 if feed is None else feed.total,
            stdout_bytes=pump.total,
            stderr_bytes=0,
            reason=reason,
        )

    def _raise_refusal(self, command: Command) -> NoReturn:
        said = tail(command.refusal or b"") or "the OCI runtime could not run it, and did not say why"
        raise EffectFailed(f"exec in container {self._order.container_id!r}: {said}")

    async def _serve(self, command: Command, feed: Feed | None, pumps: list[Pump]) -> str:
        """Carry bytes until the command has ended, or the client has gone; return why it was cut short."""
        present = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, self._client, present)
            with present:
                if await command.launch() is not None:
                    if feed is not None:
                        nursery.start_soon(feed.run)
                    await _carry(command, pumps)
            if not command.ended:
                await self._execs.end(command, self._order)
            nursery.cancel_scope.cancel()
        if command.refusal is not None:
            self._raise_refusal(command)
        return WENT_AWAY if present.cancelled_caught else ""


async def _carry(command: Command, pumps: list[Pump]) -> None:
    """Carry what the command writes to its end. Begun only now: what a runtime says itself is not for the client."""
    async with trio.open_nursery() as readers:
        for pump in pumps:
            readers.start_soon(pump.run)
        await command.wait()
        for pump in pumps:
            pump.command_ended()


@contextmanager
def _pipes(*, stdin: bool) -> Iterator[tuple[dict[int, int], dict[int, int]]]:
    """Make the pipes of a command's standard streams: its ends and ours, each by the stream's number.

    All that is still in these tables at the end is closed; who takes an end out closes it.
    """
    theirs: dict[int, int] = {}
    ours: dict[int, int] = {}
    try:
        if stdin:
            theirs[0], ours[0] = pipe(ours=1)
        else:
            theirs[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for stream in (1, 2):
            ours[stream], theirs[stream] = pipe(ours=0)
        yield theirs, ours
    finally:
        for descriptor in (*theirs.values(), *ours.values()):
            os.close(descriptor)


async def _cancel_when_gone(client: Client, scope: trio.CancelScope) -> None:
    await client.gone()
    scope.cancel()
