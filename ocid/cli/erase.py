"""``ocid erase``: have the confidential documents of a pod that is gone erased from the log."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import current_view, reading
from ocid.config import Loaded
from ocid.errors import InvalidRequest, NotFound, Unavailable, WrongState
from ocid.events.log import LOG, Erased
from ocid.ids import PodId
from ocid.journal.reader import Reader
from ocid.ports.erasures import REASON_CHARS_MAX

WAIT_S: Final = 10.0  # for a running daemon to do it
POLL_S: Final = 0.1
_SHOWN: Final = 4


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Ask the daemon for it, and wait until the log says that it is done.

    Raises:
        InvalidRequest: the reason is missing or too long; the beginning of an id fits several pods.
        NotFound: the log has no confidential documents of such a pod.
        WrongState: the pod is still on the node.
        Unavailable: the daemon refused; its messages say why.
    """
    reason = " ".join(args.reason.split())
    if not reason or not reason.isprintable() or len(reason) > REASON_CHARS_MAX:
        raise InvalidRequest(f"--reason: wanted 1 to {REASON_CHARS_MAX} printable characters, for the log keeps it")
    with reading(loaded) as reader:
        pod_id = _pod(reader, args.pod)
        view = current_view(reader)
        if pod_id in view.pods.rows or pod_id in view.containers.by_pod:
            raise WrongState("pod", pod_id, wants="removed from this node", is_now="still on it")
        before = view.sealing.version
        wish = deps.wish_erasure(loaded, pod_id, reason)
        erased = _granted(reader, pod_id, before, wish)
    if args.output == "json":
        seq, entries = erased or (0, 0)
        tables.json({"pod": pod_id, "erased": erased is not None, "entries": entries, "seq": seq})
    elif erased is None:
        tables.line("no daemon has done it yet: the next one that starts with this root will")
    else:
        tables.line(f"{erased[1]} documents of pod {pod_id} erased; record {erased[0]} of the log says so")
    return 0


def _pod(reader: Reader, wanted: str) -> PodId:
    if not wanted or not set(wanted) <= set("0123456789abcdef"):
        raise InvalidRequest(f"--pod: wanted a pod's id, or the beginning of one, is {wanted[:80]!r}")
    found = reader.confiding_pods(wanted, _SHOWN)
    if not found:
        raise NotFound("pod with confidential documents in the log", wanted)
    if len(found) > 1:
        raise InvalidRequest(f"{wanted!r} is the beginning of several ids: {', '.join(found)}; give more of it")
    return found[0]


def _granted(reader: Reader, pod_id: PodId, before: int, wish: Path) -> tuple[int, int] | None:
    """Wait for the record, and return its seq and how many documents it erased; None when no daemon looked."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        settled = not wish.exists()  # asked first: the record is durable before the wish is gone
        for envelope in reader.read_stream(LOG, before):
            if isinstance(envelope.event, Erased) and envelope.event.pod_id == pod_id:
                return envelope.seq, envelope.event.entries
        if settled:
            raise Unavailable(f"the daemon did not erase anything of pod {pod_id}; its messages say why")
        time.sleep(POLL_S)
    return None
