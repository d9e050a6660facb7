"""Which gRPC status each error becomes: one table, tested complete."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid import errors
from ocid.errors import OcidError

STATUS_OF: dict[type[OcidError], Status] = {
    errors.InvalidRequest: Status.INVALID_ARGUMENT,
    errors.NotFound: Status.NOT_FOUND,
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
    return GRPCError(STATUS_OF[type(error)], error.message)
