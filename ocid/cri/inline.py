"""RPCs that only read memory are answered as soon as their request is whole: no task, no waiting, one write.

grpclib makes a task, a stream and a deadline for every call and writes headers, message and trailers one by one. A
kubelet lists everything each second and asks for a status at every turn; such an answer is there when the question is,
so it is put together where HTTP/2's events are processed. Whatever is not plain about a call (an answer larger than the
client's window, compression, a header that is missing) goes grpclib's own way, from its beginning.

Source: gRPC over HTTP/2, "Requests", "Responses" and "Length-Prefixed-Message".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from grpclib.config import Configuration
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol
from grpclib.server import Server
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset

PREFIX: Final = struct.Struct("!?I")  # compressed or not, length of the message
REQUEST_BYTES_MAX: Final = 1 << 20  # of a request that waits here for its end
_TYPE: Final = "application/grpc+proto"
_TYPES: Final = ("application/grpc", _TYPE)
_HEADERS: Final = ((":status", "200"), ("content-type", _TYPE))
_TRAILERS: Final = (("grpc-status", "0"),)

Answer = Callable[[bytes], bytes]  # an encoded request to an encoded response; raises GRPCError


class InlineServer(Server):
    """grpclib's server, with some RPCs answered inline.

    Args:
        answers: by path, ``/runtime.v1.RuntimeService/Version``.
    """

    def __init__(
        self, services: Collection[Any], answers: Mapping[str, Answer], *, codec: CodecBase, config: Configuration
    ) -> None:
        super().__init__(services, codec=codec, config=config)
        self._answers = answers

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _Protocol(made.handler, made.config, made.h2_config, self._answers)


class _Protocol(H2Protocol):
    """One connection."""

    def __init__(
        self, handler: AbstractHandler, config: Configuration, h2_config: H2Configuration, answers: Mapping[str, Answer]
    ) -> None:
        super().__init__(handler, config, h2_config)
        self._answers = answers

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.processor = _Processor(self.handler, self.connection, self._answers)


class _Call:
    """A request on its way in."""

    __slots__ = ("answer", "events", "received")

    def __init__(self, answer: Answer, opening: RequestReceived) -> None:
        self.answer = answer
        self.events: list[RequestReceived | DataReceived | StreamEnded] = [opening]
        self.received = 0


class _Processor(EventsProcessor):
    """Takes the calls that it can answer itself; all else is its base's."""

    def __init__(self, handler: AbstractHandler, connection: Connection, answers: Mapping[str, Answer]) -> None:
        super().__init__(handler, connection)
        self._answers = answers
        self._calls: dict[int, _Call] = {}

    def process_request_received(self, event: RequestReceived) -> None:
        headers: dict[Any, Any] = dict(event.headers or ())
        answer = self._answers.get(headers.get(":path", ""))
        plain = headers.get("content-type") in _TYPES and headers.get("te") == "trailers"
        if answer is None or not plain or headers.get(":method") != "POST":
            super().process_request_received(event)
        else:
            self._calls[_stream_of(event)] = _Call(answer, event)

    def process_data_received(self, event: DataReceived) -> None:
        call = self._calls.get(_stream_of(event))
        if call is None:
            super().process_data_received(event)
            return
        call.events.append(event)
        call.received += len(event.data or b"")
        if call.received > REQUEST_BYTES_MAX:
            self._hand_over(_stream_of(event))

    def process_stream_ended(self, event: StreamEnded) -> None:
        stream_id = _stream_of(event)
        call = self._calls.get(stream_id)
        if call is None:
            super().process_stream_ended(event)
        elif self._answered(stream_id, call):
            del self._calls[stream_id]
            self.connection.streams_succeeded += 1
        else:
            call.events.append(event)
            self._hand_over(stream_id)

    def process_stream_reset(self, event: StreamReset) -> None:
        if self._calls.pop(_stream_of(event), None) is None:
            super().process_stream_reset(event)

    def _hand_over(self, stream_id: int) -> None:
        """Let grpclib serve a call, as if nothing of it had been seen."""
        for event in self._calls.pop(stream_id).events:
            match event:
                case RequestReceived():
                    super().process_request_received(event)
                case DataReceived():
                    super().process_data_received(event)
                case StreamEnded():
                    super().process_stream_ended(event)

    def _answered(self, stream_id: int, call: _Call) -> bool:
        """Answer a whole request, all in the connection's buffer. False: nothing was done, and grpclib has to."""
        h2: H2Connection = self.connection._connection  # grpclib has no public way to it
        data = [event for event in call.events if isinstance(event, DataReceived)]
        body = b"".join(event.data or b"" for event in data)
        if len(body) < PREFIX.size or stream_id not in h2.streams or not self.connection.write_ready.is_set():
            return False
        compressed, length = PREFIX.unpack_from(body)
        if compressed or len(body) != PREFIX.size + length:
            return False
        try:
            message = call.answer(body[PREFIX.size :])
        except GRPCError as error:
            said = encode_grpc_message(error.message or "")
            status = (("grpc-status", str(error.status.value)), ("grpc-message", said))
            h2.send_headers(stream_id, (*_HEADERS, *status), end_stream=True)
        else:
            framed = PREFIX.pack(False, len(message)) + message
            if len(framed) > h2.local_flow_control_window(stream_id):
                return False
            h2.send_headers(stream_id, _HEADERS)
            step = h2.max_outbound_frame_size
            for start in range(0, len(framed), step):
                h2.send_data(stream_id, framed[start : start + step])
            h2.send_headers(stream_id, _TRAILERS, end_stream=True)
        h2.acknowledge_received_data(sum(event.flow_controlled_length or 0 for event in data), stream_id)
        return True


def _stream_of(event: RequestReceived | DataReceived | StreamEnded | StreamReset) -> int:
    assert event.stream_id is not None, "an event of a stream names it"
    return event.stream_id
