"""``ocid drift``: where the host and the log say something else; and what a container changed of its image."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ocid import tables
from ocid.cli import drift_changes
from ocid.cli.client import Deps
from ocid.cli.drift_changes import DIFFERENT
from ocid.cli.log import current_view, reading
from ocid.config import Config, Loaded
from ocid.domain.drift import NOTHING, Difference, Where, compare, confirmed
from ocid.errors import EffectFailed, NotFound
from ocid.journal.looking import envelopes
from ocid.journal.reader import Reader
from ocid.ports.survey import Survey
from ocid.projections.drift import expected
from ocid.projections.text import short
from ocid.projections.view import View

AGAIN_S: Final = 1.0  # between two looks; what is under way is over by then, or the log has more to say
LOOKS_MAX: Final = 4
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_STREAM: Final = re.compile("^(container|pod)/([0-9a-f]{64})")
COLUMNS: Final = ("KIND", "SUBJECT", "THE LOG SAYS", "THE HOST HAS", "SEQ")


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print the differences; return 0 where there are none, else 8.

    Raises:
        EffectFailed: this user may not look at the host.
        Unsupported: this process does not see what the daemon sees.
    """
    if os.geteuid() != 0:
        raise EffectFailed("drift looks at processes, mounts and namespaces that only root may see: run this as root")
    with reading(loaded) as reader:
        if args.container:
            return drift_changes.run(args, reader, where_of(current_view(reader), reader, loaded).root, deps)
        seq, differences = find(reader, loaded, deps.survey)
        if differences and _booted_since(reader, seq):
            sys.stderr.write(
                "ocid: the machine has booted since the log was written: what does not outlive that is gone\n"
            )
    if args.output == "json":
        tables.json({"seq": seq, "differences": differences})
    elif args.output == "jsonl":
        tables.json_lines(differences)
    elif differences:
        tables.show(COLUMNS, rows(differences))
    else:
        tables.line(f"no difference between the host and the log as of seq {seq}")
    return DIFFERENT if differences else 0


def find(reader: Reader, loaded: Loaded, survey: Survey) -> tuple[int, tuple[Difference, ...]]:
    """Return the seq that the log was read to, and the differences from it that stay.

    The log is read first and the host looked at afterwards, so what happens in between looks like a difference once.
    """
    view = current_view(reader)
    before = _look(view, reader, loaded, survey)
    lasting: tuple[Difference, ...] = ()
    for _ in range(LOOKS_MAX - 1):
        if not before:
            return view.seq, ()
        time.sleep(AGAIN_S)
        for envelope in envelopes(reader, view.seq + 1):
            view.apply(envelope)
        now = _look(view, reader, loaded, survey)
        lasting = confirmed(before, now)
        if len(lasting) == len(now):
            break
        before = now
    return view.seq, lasting


def _booted_since(reader: Reader, seq: int) -> bool:
    last = reader.read(seq, 1)
    return bool(last) and last[0].boot_id != BOOT_ID.read_text().strip()


def _look(view: View, reader: Reader, loaded: Loaded, survey: Survey) -> tuple[Difference, ...]:
    says = expected(view, where_of(view, reader, loaded), reader.document)
    return compare(says.claims, survey.look(says.asked))


def where_of(view: View, reader: Reader, loaded: Loaded) -> Where:
    """Return where the daemon keeps its things: by the configuration that it ran with last, which is in the log."""
    config, started = loaded.config, view.node.started
    if started is not None:
        try:
            config = msgspec.json.decode(reader.document(started.config), type=Config)
        except (NotFound, msgspec.MsgspecError):  # of another version of ocid
            config = loaded.config
    return Where(
        root=loaded.config.root,
        run=config.run,
        cgroup_parent=config.cgroup.parent,
        cgroup_driver=config.cgroup.driver if started is None else started.cgroup_driver,
        bridge=config.network.bridge,
        subnets=config.network.subnets,
        daemon_pid=started.pid if started is not None and not view.node.stopped else 0,
    )


def rows(differences: tuple[Difference, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows. Pure."""
    for one in differences:
        subject = _STREAM.sub(lambda found: f"{found[1]}/{short(found[2])}", one.subject)
        expected_text, found_text = (text if text != NOTHING else "nothing" for text in (one.expected, one.found))
        yield one.kind, subject, expected_text, found_text, str(one.seq or "-")
