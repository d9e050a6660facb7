"""Fixtures of the gRPC level: a daemon on a fake machine, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.cri.daemon import Daemon, running


@pytest.fixture
async def daemon(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Daemon]:
    """A daemon that serves."""
    async with running(tmp_path) as one:
        yield one
