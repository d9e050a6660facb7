"""One plugin's socket, both ways: we call the plugin, and it calls us. Trio around ``mux`` and ``ttrpc``.

Whatever the peer sends, it costs at most its own connection: bytes that are no frames, answers to what was not asked,
more calls than it may have in hand, and calls that it does not take off the socket in time all end it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from google.protobuf.message import Message

from ocid.errors import OcidError, tail
from ocid.nri import mux, ttrpc
from ocid.nri.stubs import ttrpc_pb2 as pb
from ocid.nri.ttrpc import Code, Frame, Kind, M

READ_BYTES = 64 << 10
CALLS_MAX = 16  # of a plugin, in hand at once
WRITE_S = 2.0  # for the peer to take a message off the socket
WHY_CHARS_MAX = 512

Serve = Callable[
    [str, str, bytes], Awaitable[Message]
]  # (service, method, payload) → answer; raises OcidError, Unserved


class Refused(Exception):
    """The plugin answered a call with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Lost(Exception):
    """The connection ended, or must end, before the answer came."""


class Unserved(Exception):
    """The plugin calls what the runtime does not have."""


class TooLarge(Exception):
    """A call does not fit into one message; nothing was sent."""


class _Call:
    """One call of ours, waiting."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: pb.Response | None = None


class Connection:
    """The trunk to one plugin."""

    def __init__(self, stream: trio.abc.Stream, serve: Serve) -> None:
        self._stream = stream
        self._serve = serve
        self._writing = trio.Lock()
        self._calls: dict[int, _Call] = {}
        self._next = 1  # ttrpc: odd, and growing
        self._newest = 0  # of the plugin's calls
        self._serving = 0
        self.closed = trio.Event()
        self.why = ""  # it was closed, in words

    async def run(self) -> None:
        """Read until the connection ends; then every call in hand fails."""
        trunk, ours, theirs = mux.Demultiplexer(), ttrpc.FrameReader(), ttrpc.FrameReader()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_closed, nursery.cancel_scope)
                while received := await self._stream.receive_some(READ_BYTES):
                    for connection, payload in trunk.feed(received):
                        if connection == mux.PLUGIN:
                            for frame in ours.feed(payload):
                                self._take_answer(frame)
                        elif connection == mux.RUNTIME:
                            for frame in theirs.feed(payload):
                                self._take_call(frame, nursery)
                self.close("the plugin hung up")
        except* (mux.ProtocolError, ttrpc.MalformedError) as group:
            self.close(f"the plugin sent {tail(str(_first(group)), 256)}")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("the connection broke")
        finally:
            self.close("it ended")
            with trio.CancelScope(shield=True), trio.move_on_after(WRITE_S):
                await trio.aclose_forcefully(self._stream)

    def close(self, why: str) -> None:
        """End the connection; what runs in ``run`` is cancelled, and every waiting call fails."""
        if self.closed.is_set():
            return
        self.why = why[:WHY_CHARS_MAX]
        self.closed.set()
        for call in self._calls.values():
            call.answered.set()

    async def call(self, service: str, method: str, message: Message, make: Callable[[], M], timeout_s: float) -> M:
        """Call the plugin and return its answer.

        Raises:
            Refused: it answered with an error.
            Lost: the connection ended, the answer is none, or there was none in time; the connection is closed then.
            TooLarge: *message* is larger than ttrpc allows.
        """
        payload = message.SerializeToString()
        if (size := ttrpc.size_of_request(service, method, len(payload))) > ttrpc.MESSAGE_BYTES_MAX:
            raise TooLarge(f"{method} takes {size} bytes; at most {ttrpc.MESSAGE_BYTES_MAX} are allowed")
        if self.closed.is_set():
            raise Lost(self.why)
        number, self._next = self._next, self._next + 2
        call = self._calls[number] = _Call()
        try:
            with trio.move_on_after(timeout_s) as limit:
                await self._send(mux.PLUGIN, ttrpc.request(number, service, method, payload, timeout_s))
                await call.answered.wait()
        finally:
            del self._calls[number]
        if limit.cancelled_caught:
            self.close(f"no answer to {method} in {timeout_s:g} s")
        if call.answer is None:
            raise Lost(self.why)
        if call.answer.status.code != ttrpc.OK:
            raise Refused(call.answer.status.code, tail(call.answer.status.message, WHY_CHARS_MAX))
        try:
            return ttrpc.parse(make, call.answer.payload)
        except ttrpc.MalformedError as error:
            self.close(f"the plugin answered {method} with {tail(str(error), 256)}")
            raise Lost(self.why) from None

    # --- reading -----------------------------------------------------------------------------------------------------

    def _take_answer(self, frame: Frame) -> None:
        if frame.kind is not Kind.RESPONSE:
            raise ttrpc.MalformedError(f"a frame of type {frame.kind.name} where only answers are expected")
        call = self._calls.get(frame.stream)
        if call is None:
            return  # nobody waits for it any more
        call.answer = ttrpc.parse(pb.Response, frame.data)
        call.answered.set()

    def _take_call(self, frame: Frame, nursery: trio.Nursery) -> None:
        if frame.kind is not Kind.REQUEST or frame.flags & 2:
            raise ttrpc.MalformedError("a stream, where only plain calls are expected")
        if frame.stream % 2 == 0 or frame.stream <= self._newest:
            raise ttrpc.MalformedError(f"a call with the number {frame.stream} after {self._newest}")
        self._newest = frame.stream
        if self._serving >= CALLS_MAX:
            raise ttrpc.MalformedError(f"more than {CALLS_MAX} calls at once")
        asked = ttrpc.parse(pb.Request, frame.data)
        self._serving += 1
        nursery.start_soon(self._answer, frame.stream, asked)

    async def _answer(self, number: int, asked: pb.Request) -> None:
        try:
            answer = await self._serve(asked.service, asked.method, asked.payload)
            data = ttrpc.response(number, answer.SerializeToString())
        except ttrpc.MalformedError as error:
            data = ttrpc.response(number, code=Code.INVALID_ARGUMENT, message=tail(str(error)))
        except Unserved:
            what = tail(f"{asked.service}.{asked.method} is not served here", 256)
            data = ttrpc.response(number, code=Code.UNIMPLEMENTED, message=what)
        except OcidError as error:
            data = ttrpc.response(number, code=Code.UNKNOWN, message=error.message)
        finally:
            self._serving -= 1
        await self._send(mux.RUNTIME, data)

    async def _send(self, connection: int, message: bytes) -> None:
        """Send a whole message, or close. Shielded: whoever gives up waiting must not cut a message short."""
        try:
            async with self._writing:
                with trio.move_on_after(WRITE_S, shield=True) as limit:
                    await self._stream.send_all(mux.frames_of(connection, message))
            if limit.cancelled_caught:
                self.close(f"the plugin did not take a message in {WRITE_S:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("the plugin hung up")

    async def _end_when_closed(self, scope: trio.CancelScope) -> None:
        await self.closed.wait()
        scope.cancel()


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
