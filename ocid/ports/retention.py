"""Keeping the log within bounds: what plans a trimming, and what carries it out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import msgspec

from ocid.ids import Digest, PodId


class Archived(msgspec.Struct, frozen=True):
    """A file that was written with the records that are about to go."""

    path: str  # absolute
    first: int  # seq
    last: int
    bytes: int
    digest: Digest


class Plan(msgspec.Struct, frozen=True):
    """What is to be trimmed."""

    through: int  # up to which record
    kept: tuple[int, ...]  # the records up to there that stay
    documents: tuple[bytes, ...]  # sha256 of documents that nothing cites any more
    pods: tuple[PodId, ...]  # whose confidential documents nothing cites any more
    archive: Archived | None  # None where nothing is archived


class Old(msgspec.Struct, frozen=True):
    """An archive among those that are there."""

    path: str
    first: int
    last: int
    bytes: int


class Planner(Protocol):
    """Reads the log beside the daemon, so that nobody waits for it, and keeps archives."""

    async def plan(self, through: int) -> Plan:
        """Find out what must stay of the records up to *through*, and archive them.

        Raises:
            OcidError: it failed; nothing may be trimmed.
        """

    async def archives(self) -> Sequence[Old]:
        """List the archives, oldest records first."""

    async def remove(self, archive: Old) -> None:
        """Remove an archive."""


class TrimJournal(Protocol):
    """The log as it is trimmed: beside the appends of everybody, in short steps."""

    async def used(self) -> tuple[int, int]:
        """Return how many bytes the log takes, and up to which record it is trimmed."""

    async def last_block(self, before_ns: int, count: int) -> int:
        """Return the end of the last block that may go.

        Of complete blocks, that is the last one all of whose records are from before *before_ns*, wall clock, or the
        *count*-th oldest, whichever is later; 0 for none.
        """

    def steps(self, through: int, kept: Collection[int]) -> Iterator[int]:
        """Return the steps of a trimming, to be given to ``step``."""

    async def step(self, steps: Iterator[int]) -> bool:
        """Take one step in the writer's turn; say whether there may be more."""

    async def watch_documents(self, *, watch: bool) -> None:
        """Remember which documents come from now on, or stop it."""

    async def drop(self, documents: Sequence[bytes], pods: Sequence[PodId]) -> None:
        """Remove documents and confidential documents that are in no record that stays."""
