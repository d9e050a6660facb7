"""Which gRPC status each error becomes: one table, tested complete."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid import errors
from ocid.errors import OcidError

MESSAGE_BYTES_MAX = 4096  # three times as much when encoded; clients take headers of 16 KiB, most take more

STATUS_OF: dict[type[OcidError], Status] = {
    errors.InvalidRequest: Status.INVALID_ARGUMENT,
    errors.NotFound: Status.NOT_FOUND,
    errors.Erased: Status.DATA_LOSS,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.WrongState: Status.FAILED_PRECONDITION,
    errors.Unavailable: Status.UNAVAILABLE,
    errors.Exhausted: Status.RESOURCE_EXHAUSTED,
    errors.Unsupported: Status.UNIMPLEMENTED,
    errors.TimedOut: Status.DEADLINE_EXCEEDED,
    errors.EffectFailed: Status.UNKNOWN,  # the kubelet reads the message, and of PullImage nothing else
}


def to_grpc(error: OcidError) -> GRPCError:
    """Return the gRPC error for *error*, its sentence as the message."""
    return GRPCError(STATUS_OF[type(error)], shortened(error.message))


def shortened(message: str) -> str:
    """Return *message* with its middle left out where it is too long.

    It goes out in a header, percent-encoded; a client that gets too large a header closes the whole connection.
    """
    raw = message.encode("utf-8", "replace")
    if len(raw) <= MESSAGE_BYTES_MAX:
        return message
    half = MESSAGE_BYTES_MAX // 2
    return raw[:half].decode("utf-8", "ignore") + " … " + raw[-half:].decode("utf-8", "ignore")
