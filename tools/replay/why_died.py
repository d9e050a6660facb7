"""``ocid-replay why-died``: why a container died."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import msgspec

from ocid.journal.looking import look, peers

from . import output
from .exits import OK
from .family import events_of
from .lookup import Stored
from .meaning import find_container
from .output import cited
from .post_mortem import PostMortem, examine
from .reading import log_directory


def run(args: argparse.Namespace) -> int:
    """Print the post-mortem of ``args.container``."""
    with look(log_directory(args)) as reader:
        subject = find_container(reader, args.container)
        found = examine(subject.id, events_of(reader, subject), Stored(reader), peers(reader))
    output.told(args.output, msgspec.to_builtins(found), text(found))
    return OK


def text(found: PostMortem) -> Iterator[str]:
    """Yield it as lines. Pure."""
    where = "/".join(part for part in (found.pod, found.name) if part)
    attempt = f", attempt {found.attempt}" if found.attempt else ""
    if not found.died:
        yield f"container {found.container_id} ({where}{attempt}) has not died"
    else:
        code = "with an exit code that is not known" if found.exit_code is None else f"with exit code {found.exit_code}"
        signal = f" ({found.signal})" if found.signal else ""
        at = f" at {found.at}" if found.at is not None else ""
        ended = f"ended {code}{signal}{at}" if found.source else "never ran"
        yield f"container {found.container_id} ({where}{attempt}) {ended}"
    yield f"  verdict     {found.verdict.removeprefix('has not died: ')} {cited(found.verdict_seqs)}".rstrip()
    yield f"  cause       {found.cause}"
    yield f"  confidence  {found.confidence}: {found.rule}"
    width = max((len(str(one.seq)) for one in found.evidence), default=1)
    for number, one in enumerate(found.evidence):
        label = "evidence" if not number else ""
        yield f"  {label:10}  [{one.seq:{width}}] {_brief(one.time)}  {one.text}"
    for number, unknown in enumerate(found.not_known):
        yield f"  {'' if number else 'not known':10}  {unknown}"


def _brief(time: str) -> str:
    """Cut the nanoseconds of a time that has them."""
    return f"{time[:-7]}Z" if time.endswith("Z") and len(time) == len("2025-11-24T04:00:00.000000000Z") else time
