"""A plugin in Python, at the other end of a stream: it says who it is, answers as a test wants, and remembers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from google.protobuf.message import Message

from ocid.nri import mux, ttrpc
from ocid.nri.stubs import nri_pb2 as pb, ttrpc_pb2

Answer = Callable[[Any], Awaitable[Message] | Message]


class Refusal(Exception):
    """Answer a call with an error."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class TestPlugin:
    """``answers`` has a function for each method that is not answered by default."""

    __test__ = False

    def __init__(self, name: str, index: str = "10", events: int = 0, **answers: Answer) -> None:
        self.name, self.index, self.events, self.answers = name, index, events, answers
        self.calls: list[tuple[str, Any]] = []
        self.runtime: dict[int, ttrpc_pb2.Response] = {}  # answers to our own calls
        self.token: trio.lowlevel.TrioToken | None = None  # of the loop that it runs in, for other threads
        self._number = -1
        self._news = trio.Event()
        self._writing = trio.Lock()

    @property
    def heard(self) -> list[str]:
        """The calls so far, those of the welcome aside."""
        return [name for name, _ in self.calls if name not in ("Configure", "Synchronize")]

    def message(self, method: str) -> Any:
        """Return the last message of a call."""
        return next(message for name, message in reversed(self.calls) if name == method)

    async def run(self, stream: trio.abc.Stream, *, register: bool = True) -> None:
        """Serve until the runtime hangs up."""
        trunk, ours, theirs = mux.Demultiplexer(), ttrpc.FrameReader(), ttrpc.FrameReader()
        self.stream = stream
        try:
            async with trio.open_nursery() as nursery:
                if register:
                    nursery.start_soon(self.register)
                while received := await stream.receive_some():
                    for connection, payload in trunk.feed(received):
                        for frame in (theirs if connection == mux.PLUGIN else ours).feed(payload):
                            if connection == mux.PLUGIN:
                                nursery.start_soon(self._answer, frame)
                            else:
                                self._note(frame)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side hung up

    async def register(self) -> None:
        request = pb.RegisterPluginRequest(plugin_name=self.name, plugin_idx=self.index, NRI_version="v0.12.0")
        await self.call("RegisterPlugin", request)

    async def call(self, method: str, request: Message) -> ttrpc_pb2.Response:
        """Call the runtime."""
        self._number += 2
        number = self._number
        service = "nri.pkg.api.v1alpha1.Runtime"
        await self._send(mux.RUNTIME, ttrpc.request(number, service, method, request.SerializeToString(), 1))
        while number not in self.runtime:
            await self._news.wait()
        return self.runtime[number]

    def _note(self, frame: ttrpc.Frame) -> None:
        self.runtime[frame.stream] = ttrpc.parse(ttrpc_pb2.Response, frame.data)
        news, self._news = self._news, trio.Event()
        news.set()

    async def _answer(self, frame: ttrpc.Frame) -> None:
        asked = ttrpc.parse(ttrpc_pb2.Request, frame.data)
        assert asked.service == "nri.pkg.api.v1alpha1.Plugin"
        descriptor = pb.DESCRIPTOR.services_by_name["Plugin"].methods_by_name[asked.method]
        message = ttrpc.parse(getattr(pb, descriptor.input_type.name), asked.payload)
        self.calls.append((asked.method, message))
        answer: Any = getattr(pb, descriptor.output_type.name)()
        if asked.method == "Configure":
            answer.events = self.events
        if asked.method == "Synchronize":
            answer.more = message.more
        try:
            if asked.method in self.answers:
                answer = self.answers[asked.method](message)
                if isinstance(answer, Awaitable):
                    answer = await answer
            data = ttrpc.response(frame.stream, answer.SerializeToString())
        except Refusal as error:
            data = ttrpc.response(frame.stream, code=error.code, message=str(error))
        await self._send(mux.PLUGIN, data)

    async def _send(self, connection: int, data: bytes) -> None:
        async with self._writing:
            await self.stream.send_all(mux.frames_of(connection, data))
