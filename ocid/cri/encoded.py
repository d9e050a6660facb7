"""Lists as bytes: each item is encoded once for each change of its row, and a response is its items laid end to end.

The kubelet lists all pods and all containers every second, and hardly any has changed since.

Source: Protocol Buffers encoding, "Last One Wins": encoded messages laid end to end are one message, whose repeated
fields hold all their items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message
from grpclib.encoding.proto import ProtoCodec

from ocid.projections.fold import Row

State = TypeVar("State")


class Encoded:
    """A response that is encoded already."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: type[Message], data: bytes) -> None:
        self.kind: Final = kind
        self.data: Final = data


class Items(Generic[State]):
    """The items of one kind of list, each encoded as a response that holds nothing else."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Row[State], bytes]] = {}
        self._swept_at = 0  # seq of the log

    def part(self, name: str, row: Row[State], present: Callable[[], Message]) -> bytes:
        """Return the item of *row*; *present* makes the response that holds it, when the row is new."""
        known = self._parts.get(name)
        if known is None or known[0] is not row:
            known = self._parts[name] = (row, present().SerializeToString())
        return known[1]

    def sweep(self, rows: Mapping[str, Row[State]], seq: int) -> None:
        """Drop the items of rows that are gone from *rows*, which are as of *seq*."""
        if seq != self._swept_at:
            self._swept_at = seq
            for name in self._parts.keys() - rows.keys():
                del self._parts[name]


class Codec(ProtoCodec):  # type: ignore[misc]
    """grpclib's own codec, but for responses that are encoded already."""

    def encode(self, message: Any, message_type: type[Message]) -> bytes:
        if not isinstance(message, Encoded):
            data: bytes = super().encode(message, message_type)
            return data
        assert message.kind is message_type, f"{message.kind.__name__} is sent as {message_type.__name__}"
        return message.data
