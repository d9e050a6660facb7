"""Who asks for changes: every client of the socket in the log before its first change, and the unusual ones each time.

What a connection's client is, and whether its changes are unusual, is found out once per connection; a call of the
usual peer then costs one look-up.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any, Final

import msgspec
import trio

from ocid.actors.core import Core
from ocid.cri import executable, peers
from ocid.cri.executable import Executable, Key, Measure
from ocid.cri.subject import subject_of
from ocid.domain import usual
from ocid.events.envelope import Context
from ocid.events.node import PeerMeasured, PeerSeen, UnusualCall, UsualPeerSet
from ocid.events.trace import HEADER, parse

PEERS_MAX: Final = 1024  # processes remembered, so that each is recorded once, and again as another program
WAITING_MAX: Final = 64  # executables that wait for being hashed; each holds a file open
READERS_MAX: Final = 4  # threads that read them; more than one only where a file system does not answer
HASHES_MAX: Final = 256
STUCK_S: Final = 30.0  # for a thread whose read does not return, so that it cannot see its own limit
DRIVES: Final = "RunPodSandbox"  # whoever does this drives the node


class Caller(msgspec.Struct, frozen=True):
    """A client as of its last call."""

    seq: int  # of its node.peer_seen
    seen: PeerSeen
    compared_with: UsualPeerSet | None  # the very event
    unusual: str  # why its changes are out of the ordinary, "" when they are not


class Callers:
    """All clients of one life of the daemon."""

    def __init__(self, core: Core, usual_exes: tuple[str, ...] = ()) -> None:
        """*usual_exes* are the programs whose changes are usual; none: it is learned who runs pods first."""
        self._core = core
        self._usual_exes = usual_exes
        self._by_connection: weakref.WeakKeyDictionary[Any, Caller] = weakref.WeakKeyDictionary()
        self._by_process: dict[PeerSeen, Caller] = {}
        self._turn = trio.Lock()  # so that two calls at once record one peer, and learn of one
        self._settled = False  # whether the log says what is configured
        self._hashes: dict[Key, str] = {}
        self._readers = trio.CapacityLimiter(READERS_MAX)
        self._waiting: trio.MemorySendChannel[tuple[int, Executable]] | None = None  # None while nobody measures

    async def context(self, rpc: str, request: object, connection: asyncio.BaseTransport, metadata: Any) -> Context:
        """Name the caller of a change and the call.

        When this returns, it is durable who the caller is and, where that is unusual, that it asks. Waiting for that
        commit costs nobody but the unusual caller; the events belong to another stream than what the call leads to,
        and an append has one.

        Args:
            request: the message, to say what is to be changed.
            metadata: the call's headers, a multi-dict; None for none.
        Raises:
            OcidError: the log takes no more.
        """
        caller = self._by_connection.get(connection) or await self._met(connection)
        if caller.compared_with is not self._core.view.node.usual_peer:
            caller = self._by_connection[connection] = self._compared(caller.seq, caller.seen)
        trace = parse(metadata.getall(HEADER, ())) if metadata else ""
        context = Context(who=caller.seq, correlation=self._core.host.new_id(16), command_id=rpc, trace=trace)
        if caller.unusual:
            subject, named = subject_of(request, self._core.view)
            event = UnusualCall(rpc=rpc, subject=subject, named=named, reason=caller.unusual)
            await self._core.recorder.append(event, context)
        return context

    async def answered(self, rpc: str, connection: asyncio.BaseTransport, context: Context) -> None:
        """Learn from a change that was made: who runs a pod first is the usual peer, if none is configured."""
        if rpc == DRIVES and self._core.view.node.usual_peer is None:
            async with self._turn:
                caller = self._by_connection[connection]
                found = usual.learned(caller.seen, caller.seq)
                if found is not None and self._core.view.node.usual_peer is None:
                    await self._core.recorder.append(found, context)

    async def measure(self) -> None:
        """Hash what clients run, one after the other, until cancelled."""
        send, receive = trio.open_memory_channel[tuple[int, Executable]](WAITING_MAX)
        self._waiting = send
        try:
            async for seq, program in receive:
                await self._measure(seq, program)
        finally:
            self._waiting = None
            while True:
                try:
                    receive.receive_nowait()[1].close()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break

    # --- inside ---

    async def _met(self, connection: asyncio.BaseTransport) -> Caller:
        """Return the process at the other end, recorded if it is new."""
        async with self._turn:
            caller = self._by_connection.get(connection)
            if caller is not None:
                return caller
            if not self._settled:
                await self._settle()
            identity = peers.identify(connection.get_extra_info("socket"))
            try:
                caller = self._by_process.get(identity.seen) if identity.seen.start_ticks else None
                if caller is None:
                    caller = await self._recorded(identity)
            finally:
                if identity.executable is not None:
                    identity.executable.close()
            self._by_connection[connection] = caller
            return caller

    async def _recorded(self, identity: peers.Identity) -> Caller:
        envelope = await self._core.recorder.append(identity.seen)
        caller = self._compared(envelope.seq, identity.seen)
        if len(self._by_process) >= PEERS_MAX:
            del self._by_process[next(iter(self._by_process))]
        self._by_process[identity.seen] = caller
        if identity.executable is not None and self._waiting is not None:
            program = identity.executable.moved()
            try:
                self._waiting.send_nowait((envelope.seq, program))
            except trio.WouldBlock:
                program.close()
                self._note(envelope.seq, Measure(reason=f"{WAITING_MAX} others wait for being read"))
        return caller

    def _compared(self, seq: int, seen: PeerSeen) -> Caller:
        known = self._core.view.node.usual_peer
        return Caller(seq=seq, seen=seen, compared_with=known, unusual=usual.unusual(seen, known))

    async def _settle(self) -> None:
        """Have the log say what is configured, before it says that something differs from it."""
        before = self._core.view.node.configured_peer
        contained = bool(peers.own_container())
        if (event := usual.configured(self._usual_exes, os.geteuid(), contained, before)) is not None:
            await self._core.recorder.append(event)
        self._settled = True

    async def _measure(self, seq: int, program: Executable) -> None:
        measure = Measure(reason="file systems that do not answer keep all readers busy")
        try:
            if self._readers.available_tokens >= 1:
                measure = Measure(reason="its file system does not answer")
                with trio.move_on_after(STUCK_S):
                    measure = await trio.to_thread.run_sync(
                        executable.measure, program, self._hashes, limiter=self._readers, abandon_on_cancel=True
                    )
        finally:
            program.close()  # unless the thread has it, which closes it then
        if measure.sha256 and measure.key is not None:
            if len(self._hashes) >= HASHES_MAX:
                del self._hashes[next(iter(self._hashes))]
            self._hashes[measure.key] = measure.sha256
        self._note(seq, measure)

    def _note(self, seq: int, measure: Measure) -> None:
        event = PeerMeasured(
            peer=seq, exe_hash=measure.sha256, size_bytes=measure.size_bytes, reason=measure.reason[:200]
        )
        self._core.recorder.record(event)
