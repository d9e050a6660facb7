"""Finding what a selection wants through the log's indexes, without reading the rest.

The answer is that of a ``Selector`` which sees every record; the indexes only say which records it need not see. What a
pod or container has is found through names and kinship, rare types, askers and times by passing over whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from ocid.events import image
from ocid.events.envelope import Envelope
from ocid.events.image import CATALOG
from ocid.events.node import PeerSeen, UnusualCall
from ocid.ids import StreamId
from ocid.projections.selection import Selection, Selector, is_id

STREAMS_MAX: Final = 1 << 20  # that begin with an id's beginning
GLOB: Final = "*?["
CHUNK: Final = 1024  # records read at once


class Summary(Protocol):
    """What a block of records has; see ``ocid.journal.blocks``."""

    first_ns: int
    last_ns: int
    types: set[str]
    whos: set[int]


class Index(Protocol):
    """What finding needs of a log; see ``ocid.journal.indexes`` and ``ocid.journal.reader``."""

    def last_seq(self) -> int: ...
    def streams(self, prefix: str, limit: int) -> list[StreamId]: ...
    def named(self, name: str) -> list[tuple[int, StreamId]]: ...
    def named_from(self, beginning: str) -> list[StreamId]: ...
    def children(self, stream: StreamId) -> list[tuple[int, StreamId]]: ...
    def seqs(self, stream: StreamId) -> list[int]: ...
    def summaries(self, from_block: int) -> Sequence[tuple[int, Summary]]: ...
    def at(self, seqs: Sequence[int]) -> list[Envelope]: ...
    def read(self, from_seq: int, limit: int) -> list[Envelope]: ...


class Finder:
    """One selection, over one log as it is now and as it goes on."""

    def __init__(self, index: Index, selection: Selection, peer: Callable[[int], PeerSeen | None]) -> None:
        """*peer* returns the ``node.peer_seen`` event of a seq."""
        self._index = index
        self._selection = selection
        self._selector = Selector(selection, peer)
        self._last = index.last_seq()
        if selection.to_seq:
            self._last = min(self._last, selection.to_seq)

    @property
    def next_seq(self) -> int:
        """Where to go on after ``history``; every record from there on must go through ``admits``."""
        return self._last + 1

    def admits(self, envelope: Envelope) -> bool:
        """Say whether a record after the history is wanted."""
        return self._selector.admits(envelope)

    def is_over(self, envelope: Envelope) -> bool:
        """Say whether nothing from *envelope* on can be wanted."""
        return self._selector.is_over(envelope)

    def history(self) -> Iterator[Envelope]:
        """Yield what is wanted of the log as it is now, in order.

        Raises:
            Damaged: a record is not what was written.
        """
        wanted = self._selection
        if wanted.needs_kin:
            calls = [each.seq for each in self._of_type(UnusualCall.TYPE)]
            found = self._at(sorted({*self._learn(self._kin()), *calls}))
        elif wanted.stream and not any(char in wanted.stream for char in GLOB):
            prefix = wanted.stream if "/" in wanted.stream else f"{wanted.stream}/"
            found = self._at(
                sorted(seq for each in self._index.streams(prefix, STREAMS_MAX) for seq in self._index.seqs(each))
            )
        else:
            found = self._blocks()
        return (envelope for envelope in found if self._selector.admits(envelope))

    # --- inside ---

    def _kin(self) -> list[StreamId]:
        """Return the streams that can have something wanted, or say what something is called."""
        wanted = self._selection
        streams: dict[StreamId, None] = {}
        if wanted.image:
            streams.update(dict.fromkeys((CATALOG, *self._of_image(wanted.image))))
        if wanted.pod:
            streams.update(dict.fromkeys(pods := self._called("pod", wanted.pod)))
        if wanted.container:
            parents = dict.fromkeys(self._called("container", wanted.container))
        else:
            parents = dict.fromkeys(pods) if wanted.pod else {}
        while parents:
            streams.update(parents)
            parents = {child: None for each in parents for _, child in self._index.children(each)}
        return list(streams)

    def _called(self, aggregate: str, wanted: str) -> list[StreamId]:
        by_id = self._index.streams(f"{aggregate}/{wanted}", STREAMS_MAX)
        by_name = [stream for _, stream in self._index.named(wanted) if stream.startswith(f"{aggregate}/")]
        return [*by_id, *by_name]

    def _of_image(self, wanted: str) -> list[StreamId]:
        """Return the pulls of an image and the containers made from it."""
        names = {wanted}
        pulls = [stream for _, stream in self._index.named(wanted)]
        for envelope in self._at([seq for stream in (CATALOG, *pulls) for seq in self._index.seqs(stream)]):
            match envelope.event:
                case image.ImageNamed(image_id=image_id, name=name) if name == wanted:
                    names.add(image_id)
                case image.ImageAdded(image_id=image_id) | image.PullResolved(image_id=image_id):
                    if envelope.stream != CATALOG or is_id(wanted, image_id):
                        names.add(image_id)
                case _:
                    pass
        found = [stream for name in sorted(names) for _, stream in self._index.named(name)]
        return [*found, *self._index.named_from(f"sha256:{wanted.removeprefix('sha256:')}")]

    def _learn(self, streams: list[StreamId]) -> list[int]:
        """Have the selector learn what these are, and return where their records are."""
        seqs = [self._index.seqs(stream) for stream in streams]
        for envelope in self._index.at(sorted(each[0] for each in seqs if each)):
            self._selector.kinship.learn(envelope)
        return [seq for each in seqs for seq in each]

    def _at(self, seqs: Sequence[int]) -> Iterator[Envelope]:
        first = self._selection.from_seq
        if self._selection.needs_kin and self._selection.image:
            first = 1  # what its names mean is said on the way
        wanted = [seq for seq in seqs if first <= seq <= self._last]
        for start in range(0, len(wanted), CHUNK):
            yield from self._index.at(wanted[start : start + CHUNK])

    def _of_type(self, name: str) -> Iterator[Envelope]:
        """Yield the records of a rare type."""
        return (each for each in self._blocks(lambda summary: name in summary.types) if each.type == name)

    def _blocks(self, can_have: Callable[[Summary], bool] | None = None) -> Iterator[Envelope]:
        """Yield the records of all blocks that can have something wanted."""
        can_have = can_have or self._can_have
        seq = self._selection.from_seq
        block = (seq - 1) // _BLOCK
        while found := self._index.summaries(block):
            for block, summary in found:
                if block * _BLOCK >= self._last:
                    return
                if can_have(summary):
                    yield from self._range(max(seq, block * _BLOCK + 1), (block + 1) * _BLOCK)
            block += 1
        yield from self._range(max(seq, block * _BLOCK + 1), self._last)

    def _range(self, first: int, last: int) -> Iterator[Envelope]:
        last = min(last, self._last)
        while first <= last and (found := self._index.read(first, min(CHUNK, last - first + 1))):
            yield from (envelope for envelope in found if envelope.seq <= last)
            first = found[-1].seq + 1

    def _can_have(self, summary: Summary) -> bool:
        wanted = self._selection
        if summary.last_ns < wanted.since_ns or (wanted.until_ns and summary.first_ns >= wanted.until_ns):
            return False
        if wanted.types and not any(map(self._selector.admits_type, summary.types)):
            return False
        return not wanted.who or PeerSeen.TYPE in summary.types or any(map(self._selector.admits_asker, summary.whos))


_BLOCK: Final = 256  # records; ``ocid.journal.blocks``
