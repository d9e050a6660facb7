"""One thread of its own for what must not block Trio and must stay in one thread: LMDB's write transactions.

``trio.to_thread.run_sync`` can do the same; a thread that lives as long as the writer and one wake-up by
``TrioToken.run_sync_soon`` cost 36 µs there and back where it costs 107, a fifth of a durable append.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar

import outcome
import trio

A = ParamSpec("A")
R = TypeVar("R")

READERS_MAX: Final = 2  # chunks of the log being read at once


class Runner(Protocol):
    """Runs a log's blocking calls."""

    async def write(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """Run *function* after those before it. Once begun, it cannot be cancelled."""

    async def read(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """Run *function* beside the others. Cancelling waits for it."""

    def close(self) -> None:
        """Take no more."""


class Worker:
    """Writes in its own thread, reads in Trio's. Made and closed in a Trio task."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._readers = trio.CapacityLimiter(READERS_MAX)
        threading.Thread(target=self._serve, name="ocid-journal", daemon=True).start()

    async def write(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """See ``Runner``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()

        def job() -> None:
            result = outcome.capture(function, *args, **kwargs)
            self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)

        self._jobs.put(job)
        result: R = await trio.lowlevel.wait_task_rescheduled(_stay)
        return result

    async def read(self, function: Callable[A, R], /, *args: A.args, **kwargs: A.kwargs) -> R:
        """See ``Runner``."""
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._readers)

    def close(self) -> None:
        """End the thread once what was asked of it is done."""
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except trio.RunFinishedError:  # the loop ended without its tasks; nobody is left to tell
                return
            del job  # it holds the batch and the caller's task


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
