"""Fixtures of the gRPC level: a daemon on a fake machine, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.cri.daemon import Daemon, running

HERE = Path(__file__).parent


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that serves. Tests that ask for it run on virtual time."""
    async with running(tmp_path) as one:
        yield one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-trio takes the clock from a test's own arguments only; a runner of its own spares every test one."""
    for item in items:
        if HERE in item.path.parents and "daemon" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=on_virtual_time), append=False)


def on_virtual_time(
    main: Callable[[], Awaitable[Any]], *, clock: trio.abc.Clock | None, instruments: Sequence[trio.abc.Instrument]
) -> Any:
    """Run *main* with a clock that jumps ahead whenever everybody waits."""
    return trio.run(main, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)
