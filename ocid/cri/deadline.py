"""Calls whose deadline is over before they are looked at are told so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpclib.server
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.utils import DeadlineWrapper


class PunctualWrapper(DeadlineWrapper):
    """What grpclib bounds a call with; its own answers UNKNOWN, "Internal Server Error", to one that comes too late."""

    @contextlib.contextmanager
    def start(self, deadline: Any) -> Iterator[None]:
        """Bound the call.

        Raises:
            GRPCError: DEADLINE_EXCEEDED: its time is up.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(super().start(deadline))
            except TimeoutError:
                message = "the caller's deadline was over when the call was taken up"
                raise GRPCError(Status.DEADLINE_EXCEEDED, message) from None
            yield


def install() -> None:
    """Have grpclib use it: the class is looked up by name, and there is no other way in."""
    vars(grpclib.server)["DeadlineWrapper"] = PunctualWrapper
