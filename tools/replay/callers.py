"""What the node's own stream knows about those who asked for what befell one pod or container. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ocid.events.envelope import Envelope
from ocid.events.node import PeerMeasured, UnusualCall


class Remarks(msgspec.Struct, frozen=True):
    """What there is to add to a story."""

    calls: tuple[Envelope, ...]  # by others than the usual peer, also such as were refused
    hashes: Mapping[int, str]  # seq of a peer → sha256 of what it runs


def remarks(node: Iterable[Envelope], events: Sequence[Envelope]) -> Remarks:
    """Return what *node*, the node's own stream, has to add to *events*."""
    streams = {each.stream for each in events}
    calls_of_events = {each.context.correlation for each in events if each.context.correlation}
    calls, hashes = [], {}
    for each in node:
        match each.event:
            case PeerMeasured(peer=seq, exe_hash=exe_hash) if exe_hash:
                hashes[seq] = exe_hash
            case UnusualCall(subject=subject):
                if subject in streams or each.context.correlation in calls_of_events:
                    calls.append(each)
            case _:
                pass
    return Remarks(tuple(calls), hashes)


def inserted(events: Sequence[Envelope], found: Remarks) -> list[Envelope]:
    """Return *events* with the unusual calls among them, in order."""
    return sorted([*events, *found.calls], key=lambda each: each.seq)
