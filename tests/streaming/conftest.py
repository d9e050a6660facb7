"""Fixtures of the streaming server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.streaming.fake import FakeSessions, serving


@pytest.fixture
async def sessions() -> FakeSessions:
    """The core behind the server; async, because its clock is Trio's."""
    return FakeSessions()


@pytest.fixture
async def base(sessions: FakeSessions) -> AsyncIterator[str]:
    """The URL of a server on loopback."""
    async with serving(sessions) as url:
        yield url
