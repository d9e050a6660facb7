"""What of a damaged log begins the new one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from ocid.actors import rebuild
from ocid.domain.confidential import Confidential
from ocid.domain.configs import ContainerConfig, ImageSpec, Mount
from ocid.events.container import Declared
from ocid.events.envelope import DAEMON
from ocid.ids import PodId, StreamId, digest_of
from ocid.journal import salvage
from ocid.journal.memory import MemoryLog, memory_journal
from ocid.journal.pending import prepare
from ocid.journal.store import Store
from tests.actors.test_sealing import TrioClock
from tests.events.samples import sample
from tests.fakes.declared import pod_declared
from tests.journal.helpers import BOOT


@pytest.mark.parametrize("mounts", [(), ("sha256:" + "1" * 64, "sha256:" + "2" * 64)])
def test_what_mounted_images_are_made_of_is_needed_too(mounts: tuple[str, ...]) -> None:
    named = (Mount(container_path=f"/{one[-1]}", image=ImageSpec(image="x", image_ref=one)) for one in mounts)
    config = msgspec.json.encode(ContainerConfig(mounts=(Mount(container_path="/plain"), *named)))
    event = sample(Declared)
    assert isinstance(event, Declared)
    event = msgspec.structs.replace(event, config=digest_of(config))
    assert rebuild._of_mounted_images([event], {event.config: config}) == set(mounts)
    assert rebuild._of_mounted_images([event], {}) == set(), "a document that is missing is told of elsewhere"


def test_confidential_documents_of_what_lives_come_over_under_the_same_commitment(tmp_path: Path) -> None:
    pod_id = PodId("a" * 64)
    config = Confidential(pod_id, bytes(32), b'{"hostname":"' + b"h" * 5000 + b'"}')
    stream = StreamId(f"pod/{pod_id}")
    store = Store(tmp_path, boot_id=BOOT, map_bytes=64 << 20)
    declared = pod_declared(pod_id, config=config.digest)
    store.append_batch([prepare(stream, 0, [declared], DAEMON, [config])], 1, 1)
    envelopes = store.read(1)
    store.close()

    async def scenario() -> None:
        writer = memory_journal(MemoryLog(), TrioClock())
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            assert await rebuild.rebuild(writer, envelopes, salvage.confidences_of(tmp_path), "there") == 1
            assert writer.document(config.digest) == config.text
            assert await writer.confidences(pod_id) == 1, "and it can be erased there, too"
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=MockClock(autojump_threshold=0))
