"""Lists as bytes: an item is encoded once for each change of its row, and a response is its items laid end to end.

The kubelet lists all pods and all containers every second, and hardly any of them has changed since.

Source: Protocol Buffers, "Encoding": encoded messages laid end to end are one message, repeated fields appended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError

from ocid.projections.fold import Row

BATCH_BYTES_MAX = 1 << 20  # of a streamed message; a Go client takes 4 MiB unless told otherwise

_TAGS = tuple(bytes((number << 3 | 2,)) for number in range(16))  # of fields that are messages or texts

State = TypeVar("State")
Config = TypeVar("Config")


class Encoded:
    """A response that is encoded already."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: type[Message], data: bytes) -> None:
        self.kind = kind
        self.data = data


def batches(kind: type[Message], parts: Iterable[bytes]) -> Iterator[Encoded]:
    """Lay encoded items end to end in as many responses as their size asks for, none of them empty.

    *kind* holds its items in the field of the same number as the response that the items were encoded in; all lists
    of CRI v1 and their streams have them in field 1. All *parts* are taken before the first response is given.
    """
    batch: list[bytes] = []
    size_bytes = 0
    for part in list(parts):
        if batch and size_bytes + len(part) > BATCH_BYTES_MAX:
            yield Encoded(kind, b"".join(batch))
            batch, size_bytes = [], 0
        batch.append(part)
        size_bytes += len(part)
    if batch:
        yield Encoded(kind, b"".join(batch))


class Items(Generic[State, Config]):
    """The items of one list, each kept as an encoded response that holds nothing else."""

    def __init__(self, kind: type[Message], field: str, present: Callable[[State, Config], Message]) -> None:
        """*kind* is the response, *field* the one of its fields that holds the items, *present* makes an item."""
        self._kind = kind
        self._field = field
        self._present = present
        self._parts: dict[str, tuple[Row[State], bytes]] = {}
        self._swept_at = 0  # seq of the log
        self._whole: tuple[int, Encoded] | None = None  # the response without a filter, and the seq that it is as of

    def part(self, name: str, row: Row[State], config: Config) -> bytes:
        """Return the encoded item of *row*, which is *name*'s."""
        known = self._parts.get(name)
        if known is None or known[0] is not row:
            known = self._parts[name] = (row, self._wrapped(self._present(row.state, config)))
        return known[1]

    def _wrapped(self, item: Message) -> bytes:
        return self._kind(**{self._field: [item]}).SerializeToString()

    def response(self, parts: Iterable[bytes]) -> Encoded:
        """Return the response that holds all *parts*, in order."""
        return Encoded(self._kind, b"".join(parts))

    def whole(self, seq: int, parts: Callable[[], Iterable[bytes]]) -> Encoded:
        """Return the response that holds all *parts*; they are asked for only if the log has gone on since the last."""
        if self._whole is None or self._whole[0] != seq:
            self._whole = (seq, self.response(parts()))
        return self._whole[1]

    def sweep(self, rows: Mapping[str, Row[State]], seq: int) -> None:
        """Drop what is not among *rows* any more; *seq* is the position in the log that these are as of."""
        if seq != self._swept_at:
            self._swept_at = seq
            for name in self._parts.keys() - rows.keys():
                del self._parts[name]

    def __len__(self) -> int:
        return len(self._parts)


class Heads(Items[State, Config]):
    """The beginnings of messages that change at every call: the field that says whom each is about, kept encoded."""

    def _wrapped(self, item: Message) -> bytes:
        return self._kind(**{self._field: item}).SerializeToString()


def varint(number: int) -> bytes:
    """Return a number that is not negative in the encoding's own form: seven bits at a time, the lowest ones first."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def embedded(number: int, content: bytes) -> bytes:
    """Return an encoded message, or a text, as the field of that *number*, below 16, of the message around it."""
    return _TAGS[number] + varint(len(content)) + content


class Codec(ProtoCodec):
    """grpclib's codec, which also takes responses that are encoded already, and blames clients for their garbage."""

    def encode(self, message: Any, message_type: type[Any]) -> bytes:
        if not isinstance(message, Encoded):
            return super().encode(message, message_type)
        assert message.kind is message_type, f"{message.kind.__name__} is sent as {message_type.__name__}"
        return message.data

    def decode(self, data: bytes, message_type: type[Any]) -> Any:
        try:
            return super().decode(data, message_type)
        except DecodeError as error:
            name = message_type.DESCRIPTOR.full_name
            raise GRPCError(Status.INVALID_ARGUMENT, f"{len(data)} bytes are no {name}: {error}") from None
