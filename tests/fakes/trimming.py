"""Logs in which pods come and go, signed for and trimmed as a daemon does it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from ocid.domain import note
from ocid.domain.note import Checkpoint, Key
from ocid.domain.retention import encode_kept
from ocid.events import exec as execution, image
from ocid.events.envelope import Context, Envelope
from ocid.events.log import LOG, Founded, Sealed, Trimmed
from ocid.events.node import NODE, PeerSeen
from ocid.ids import ContainerId, Digest, ExecId, ImageId, PodId, digest_of
from ocid.journal import trim
from ocid.journal.reader import Reader
from ocid.projections.retention import Retention
from ocid.projections.view import View
from tests.fakes import lives
from tests.fakes.declared import container_declared, exec_requested, pod_declared
from tests.fakes.lives import MANIFEST, Life
from tests.fakes.signers import FakeSigner

ORIGIN = "ocid/node/0123456789ab"
ENDED = execution.Finished(exit_code=0, timed_out=False, took_ms=1, stdout_bytes=0, stderr_bytes=0)


def begun(directory: Path, pods: int = 80) -> Life:
    """A log with a name and a key, in which pods came and went."""
    life = Life(directory)
    lives.write_begin(life)
    life.write(LOG, Founded(origin=ORIGIN, key=Key(ORIGIN, FakeSigner(1).public).text()), context=Context())
    churn(life, 1, pods)
    return life


def seal(life: Life) -> str:
    """Sign for the log as it is."""
    signer, head = FakeSigner(1), life.store.head()
    text = Checkpoint(ORIGIN, head.size, head.root()).text()
    written = note.signed(text, [(Key(ORIGIN, signer.public), signer.sign(text.encode()))])
    event = Sealed(size=head.size, root=head.root().hex(), note=digest_of(written.encode()), occasion="time")
    life.write(LOG, event, context=Context(), documents=(written.encode(),))
    return written


def churn(life: Life, seed: int, pods: int) -> None:
    """Have pods come, be exec'd into, and go, but some; images come and go; peers and checkpoints between them."""
    random_ = random.Random(seed)
    for number in range(pods):
        pod, container = PodId(f"{seed:02x}{number:062x}"), ContainerId(f"{seed:02x}{number + 5000:062x}")
        life.write(NODE, PeerSeen(pid=5000 + number, start_ticks=1, uid=0, gid=0, exe="/x", comm="x", cgroup="/"))
        peer = Context(who=life.envelopes[-1].seq)
        name = ImageId(f"sha256:{number % 7:064x}")
        life.write(
            "catalog/images",
            image.ImageAdded(image_id=name, manifest=MANIFEST, config=Digest(name), size_bytes=1),
            image.ImageNamed(image_id=name, name=f"r/i:{number % 5}"),
        )
        life.write(f"pod/{pod}", pod_declared(pod, name=f"p{number}", created_at_ns=life.now_ns), context=peer)
        document = f"config {number}".encode()
        config = digest_of(document)
        declared = container_declared(container, pod_id=pod, name="c", image_id=name, config=config)
        life.write(f"container/{container}", declared, context=peer, documents=(document,))
        for command in range(random_.randrange(4)):
            exec_id = ExecId(f"{seed:02x}{number:08x}{command:022x}")
            life.write(f"exec/{exec_id}", exec_requested(exec_id, container_id=container), ENDED)
        if random_.random() < 0.9:
            for stream, event in (
                (f"container/{container}", lives.container.Removed()),
                (f"pod/{pod}", lives.pod.Removed()),
            ):
                life.write(stream, event)
        if random_.random() < 0.3:
            life.write("catalog/images", image.ImageRemoved(image_id=name))
            life.write("catalog/images", image.LayersCollected(layers=1))
        if not number % 20:
            seal(life)


def view_of(envelopes: list[Envelope]) -> View:
    view = View(lambda _: b"{}")
    for envelope in envelopes:
        view.apply(envelope)
    return view


def planned(life: Life, through: int, *, limit: int = 64) -> tuple[frozenset[int], Iterator[int]]:
    """Say in the log that it is trimmed, as the daemon does; return what stays, and the steps that trim it."""
    records = everything(life.store)
    retention = Retention(view_of(records), through)
    for envelope in records:
        retention.see(envelope)
    kept = retention.kept()
    document = encode_kept(kept)
    told = Trimmed(through=through, kept=digest_of(document), left=len(kept), reason="size")
    life.write(LOG, told, context=Context(), documents=(document,))
    return kept, trim.steps(life.store, through, kept, limit)


def trim_log(life: Life, through: int, *, limit: int = 64, stop_after: int = 0) -> frozenset[int]:
    """Trim as the daemon does, or only some steps of it; return what stays."""
    kept, steps = planned(life, through, limit=limit)
    for done, _ in enumerate(steps, start=1):
        if done == stop_after:
            break
    return kept


def everything(reader: Reader) -> list[Envelope]:
    found: list[Envelope] = []
    while chunk := reader.read(found[-1].seq + 1 if found else 1):
        found += chunk
    return found
