"""A call whose deadline was over before it was taken up is told so, and is not taken for a failure of ours."""

from __future__ import annotations

import asyncio

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline

from ocid.cri.deadline import PunctualWrapper


async def _entered(seconds: float) -> str:
    with PunctualWrapper().start(Deadline.from_timeout(seconds)):
        return "entered"


def test_a_deadline_that_is_over() -> None:
    with pytest.raises(GRPCError) as caught:
        asyncio.run(_entered(-1.0))

    assert caught.value.status is Status.DEADLINE_EXCEEDED


def test_a_deadline_to_come() -> None:
    assert asyncio.run(_entered(60.0)) == "entered"
