"""A log as a busy node has it, made without one: ``python -m benchmarks.synthetic DIRECTORY --events N``.

Pods of one container each come, have commands run in them, and go; a checkpoint is signed every 4,096 records, and the
log's key is beside it in ``keys``. The events are real ones, and so are their sizes; nothing that they speak of exists.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from ocid.adapters.keys import KeyFiles
from ocid.domain import note
from ocid.domain.note import Checkpoint, Key
from ocid.events import container, exec as execution, log, pod
from ocid.events.base import Event
from ocid.events.envelope import Context
from ocid.ids import ContainerId, Digest, ExecId, ImageId, PodId, StreamId, digest_of
from ocid.journal.pending import Pending, prepare
from ocid.journal.store import Store

BOOT: Final = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"
CONTEXT: Final = Context(who=3, correlation="0123456789abcdef", cause=17)
ORIGIN: Final = "ocid/node/0123456789ab"
SEAL_RECORDS: Final = 4096
EXECS: Final = 14  # in each container
PODS: Final = 32  # in one batch


def hex_of(*words: object) -> str:
    """Return 64 digits that depend on *words*."""
    return sha256(repr(words).encode()).hexdigest()


def digest(*words: object) -> Digest:
    """Return a digest that depends on *words*."""
    return Digest("sha256:" + hex_of(*words))


def story(number: int) -> Iterator[tuple[StreamId, list[Event]]]:
    """Yield what happened to one pod, stream by stream."""
    pod_id, container_id = PodId(hex_of("pod", number)), ContainerId(hex_of("container", number))
    yield StreamId(f"pod/{pod_id}"), _of_pod(number, pod_id)
    yield StreamId(f"container/{container_id}"), _of_container(number, pod_id, container_id)
    for command in range(EXECS):
        exec_id = ExecId(hex_of("exec", number, command))
        yield (
            StreamId(f"exec/{exec_id}"),
            [
                execution.Requested(
                    exec_id=exec_id,
                    container_id=container_id,
                    argv=digest("argv", number, command),
                    argv_brief=f"/bin/check --number {command}",
                    timeout_s=5,
                ),
                execution.Finished(exit_code=0, timed_out=False, took_ms=18, stdout_bytes=12, stderr_bytes=0),
            ],
        )


def _of_pod(number: int, pod_id: PodId) -> list[Event]:
    return [
        pod.Declared(
            pod_id=pod_id,
            name=f"web-{number}",
            namespace="shop",
            uid=hex_of("uid", number)[:32],
            attempt=0,
            created_at_ns=number,
            config=digest("pod", number),
            handler="",
            network="bridge",
            addresses=("10.88.1.7/16", "fd00:88::7/64"),
            interface=f"ocid{number & 0xFFFFFF:06x}",
            netns=f"/run/ocid/pods/{pod_id}/ns/net",
            run_dir=f"/run/ocid/pods/{pod_id}",
            cgroup_parent=f"/kubepods/burstable/pod{number}",
        ),
        pod.Prepared(),
        pod.NetworkAttached(addresses=("10.88.1.7", "fd00:88::7"), via="bridge"),
        pod.Ready(),
    ]


def _of_container(number: int, pod_id: PodId, container_id: ContainerId) -> list[Event]:
    return [
        container.Declared(
            container_id=container_id,
            pod_id=pod_id,
            name="web",
            attempt=0,
            created_at_ns=number,
            config=digest("container", number),
            secrets=2,
            image_id=ImageId(digest("image", number % 40)),
            image_ref=f"registry.example/shop/web@{digest('ref', number % 40)}",
            image_manifest=digest("manifest", number % 40),
            handler="",
            log_path=f"/var/log/pods/shop_web-{number}/web/0.log",
            bundle=f"/run/ocid/containers/{container_id}",
            writable=f"/var/lib/ocid/containers/{container_id}",
            cgroup=f"/kubepods/burstable/pod{number}/{container_id}",
        ),
        container.Prepared(spec=digest("spec", number), uid=1000, gid=1000),
        container.Created(pid=4711, start_ticks=123456),
        container.StartRequested(),
        container.Started(at_ns=number),
        container.Exited(at_ns=number, exit_code=0, source="monitor"),
        container.Released(),
        container.Removed(),
    ]


def make(directory: Path, events: int) -> int:
    """Write a log of at least *events* records to *directory*, signed at its end, and return how many it has."""
    directory.mkdir(parents=True, exist_ok=True)
    store = Store(directory, boot_id=BOOT)
    signer = KeyFiles(directory / "keys").current()
    key = Key(ORIGIN, signer.public)
    store.append_batch([prepare(log.LOG, 0, [log.Founded(origin=ORIGIN, key=key.text())], CONTEXT)], time.time_ns(), 1)
    seals, number = 1, 0
    while store.last_seq() < events:
        batch: list[Pending] = []
        for _ in range(PODS):
            batch += (prepare(stream, 0, said, CONTEXT) for stream, said in story(number))
            number += 1
        store.append_batch(batch, time.time_ns(), 1)
        head = store.head()
        if head.size >= SEAL_RECORDS * seals or head.size >= events:
            text = Checkpoint(ORIGIN, head.size, head.root()).text()
            written = note.signed(text, [(key, signer.sign(text.encode()))]).encode()
            sealed = log.Sealed(size=head.size, root=head.root().hex(), note=digest_of(written), occasion="time")
            store.append_batch([prepare(log.LOG, seals, [sealed], CONTEXT, [written])], time.time_ns(), 1)
            seals += 1
    count = store.last_seq()
    store.close()
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000)
    asked = parser.parse_args()
    print(make(asked.directory, asked.events), "records")
