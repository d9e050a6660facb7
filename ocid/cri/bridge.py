"""The border between asyncio, which grpclib needs, and Trio, which everything else runs on.

Only here are functions asyncio-flavoured. Reads are answered right on the border, from memory, without a switch of
event loop. What changes something runs as a Trio function; when the client goes away, only its waiting is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import grpclib.const
import trio_asyncio
from google.protobuf.message import Message
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Stream

from ocid.cri.encoded import Encoded, batches
from ocid.cri.facade import Facade
from ocid.cri.inline import Answer
from ocid.cri.peers import identify
from ocid.cri.receiving import receive
from ocid.cri.status import shortened, to_grpc
from ocid.errors import OcidError
from ocid.events import node
from ocid.events.envelope import Context

log = logging.getLogger(__name__)

Read = Callable[[Facade, Any], Message | Encoded]
Gather = Callable[[Facade, Any], Iterator[bytes]]  # items, each as a response that holds nothing else
Streaming = Callable[[Facade, Any], Iterator[Message | Encoded]]
Change = Callable[[Facade, Any, Context], Awaitable[Message]]
Follow = Callable[[Facade, Any], contextlib.AbstractContextManager[AsyncGenerator[Message, None]]]

TURN_S = 0.005  # of gathering before others get theirs


class Rpc(Protocol):
    async def __call__(self, stream: Stream[Any, Any]) -> None: ...


def reading(facade: Facade, name: str, handle: Read) -> Rpc:
    """Serve an RPC that only reads memory."""

    async def rpc(stream: Stream[Any, Any]) -> None:
        await stream.send_message(_read(facade, name, handle, await receive(stream)))

    return rpc


def answering(facade: Facade, name: str, handle: Read, codec: CodecBase, method: grpclib.const.Handler) -> Answer:
    """Answer the same RPC from bytes to bytes."""

    def answer(request: bytes) -> bytes:
        response = _read(facade, name, handle, codec.decode(request, method.request_type))
        try:
            return codec.encode(response, method.reply_type)
        except Exception as bug:
            raise _internal(name, bug) from bug

    return answer


def _read(facade: Facade, name: str, handle: Read, request: Any) -> Message | Encoded:
    try:
        facade.require_open()
        return handle(facade, request)
    except OcidError as error:
        raise to_grpc(error) from None
    except Exception as bug:
        raise _internal(name, bug) from bug


def streaming(facade: Facade, name: str, handle: Streaming) -> Rpc:
    """Serve an RPC that reads memory and answers in several messages, then ends.

    *handle* takes all that it needs from memory before it gives the first message: between messages, the client's
    slowness is waited for, and memory changes.
    """

    async def rpc(stream: Stream[Any, Any]) -> None:
        request = await receive(stream)
        try:
            facade.require_open()
            for response in handle(facade, request):
                await stream.send_message(response)
        except OcidError as error:
            raise to_grpc(error) from None
        except (GRPCError, ProtocolError, StreamTerminatedError):
            raise  # grpclib's own affair: the client went away
        except Exception as bug:
            raise _internal(name, bug) from bug

    return rpc


def gathering(facade: Facade, name: str, handle: Gather, kind: type[Message], *, batched: bool) -> Rpc:
    """Serve an RPC whose items take a while to gather, as one response or, for a stream, *batched*.

    Others get their turn in between: *handle* must bear that memory changes from one item to the next.
    """

    async def rpc(stream: Stream[Any, Any]) -> None:
        request = await receive(stream)
        try:
            facade.require_open()
            parts = await _gathered(handle(facade, request))
            for response in batches(kind, parts) if batched else [Encoded(kind, b"".join(parts))]:
                await stream.send_message(response)
        except OcidError as error:
            raise to_grpc(error) from None
        except (GRPCError, ProtocolError, StreamTerminatedError):
            raise  # grpclib's own affair: the client went away
        except Exception as bug:
            raise _internal(name, bug) from bug

    return rpc


async def _gathered(parts: Iterator[bytes]) -> list[bytes]:
    found: list[bytes] = []
    until_s = time.perf_counter() + TURN_S
    for part in parts:
        found.append(part)
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + TURN_S
    return found


def changing(facade: Facade, name: str, handle: Change) -> Rpc:
    """Serve an RPC that changes something: who asks is in the log before anything is done."""

    async def rpc(stream: Stream[Any, Any]) -> None:
        request = await receive(stream)
        connection = stream.peer._transport  # grpclib has no public way to the socket

        async def run() -> Message | OcidError | Exception:
            try:
                return await handle(facade, request, await _context(facade, name, connection))
            except OcidError as error:
                await _refused(facade, name, connection, error)
                return error
            except Exception as bug:
                return bug

        try:
            facade.require_open()
        except OcidError as error:
            raise to_grpc(error) from None
        outcome = await trio_asyncio.trio_as_aio(run)()
        if isinstance(outcome, OcidError):
            raise to_grpc(outcome)
        if isinstance(outcome, Exception):
            raise _internal(name, outcome) from outcome
        await stream.send_message(outcome)

    return rpc


def following(facade: Facade, name: str, handle: Follow) -> Rpc:
    """Serve an RPC that streams until the client goes away."""

    async def rpc(stream: Stream[Any, Any]) -> None:
        request = await receive(stream)

        async def send_all(responses: AsyncGenerator[Message, None]) -> None:
            async with contextlib.aclosing(responses):
                async for response in responses:
                    await trio_asyncio.aio_as_trio(stream.send_message)(response)

        try:
            facade.require_open()
            with handle(facade, request) as responses:
                await stream.send_initial_metadata()  # the client knows from here on that it will miss nothing
                await trio_asyncio.trio_as_aio(send_all)(responses)
        except OcidError as error:
            raise to_grpc(error) from None
        except (GRPCError, ProtocolError, StreamTerminatedError):
            raise  # grpclib's own affair: the client went away
        except Exception as bug:
            raise _internal(name, bug) from bug

    return rpc


def unimplemented(name: str) -> Rpc:
    """Answer an RPC that this build does not have. The kubelet falls back where it can."""

    async def rpc(stream: Stream[Any, Any]) -> None:
        await receive(stream)
        raise GRPCError(grpclib.const.Status.UNIMPLEMENTED, f"{name} is not implemented")

    return rpc


async def _context(facade: Facade, name: str, connection: Any) -> Context:
    """Name the caller and the call. A caller's first change puts an event of its own into the log."""
    who = await facade.who(connection, identify)
    return Context(who=who, correlation=facade.core.host.new_id(16), command_id=name)


async def _refused(facade: Facade, name: str, connection: Any, error: OcidError) -> None:
    """Record a request that failed, with who made it."""
    event = node.RequestRefused(rpc=name, error=type(error).__name__, message=error.message[:1000])
    await facade.core.recorder.append(event, await _context(facade, name, connection))


def _internal(name: str, bug: Exception) -> GRPCError:
    log.error("%s failed in a way nobody foresaw", name, exc_info=bug)
    message = shortened(f"{name}: {type(bug).__name__}: {bug}")
    return GRPCError(grpclib.const.Status.INTERNAL, f"{message}; this is a bug of ocid")
