"""A small log with two pods' lives in it, for tests of whatever reads logs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ocid.domain.confidential import Beside
from ocid.events import container, exec as execution, image, layer, node, pod
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import ChainId, ContainerId, Digest, ExecId, ImageId, PodId, PullId, StreamId
from ocid.journal.pending import prepare
from ocid.journal.store import Store
from tests.fakes.declared import container_declared, exec_requested, pod_declared

BOOT: Final = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"
BEGAN_NS: Final = 1_763_956_800 * 10**9  # 2025-11-24T04:00:00Z; each batch is a second later
S: Final = 10**9
WEB: Final = PodId("aa" * 32)
JOB: Final = PodId("ab" * 32)
APP: Final = ContainerId("c1" * 32)
HOG: Final = ContainerId("c2" * 32)
LATE: Final = ContainerId("c3" * 32)
PROBE: Final = ExecId("e1" * 16)
PULL: Final = PullId("f1" * 16)
IMAGE: Final = ImageId("sha256:" + "11" * 32)
MANIFEST: Final = Digest("sha256:" + "22" * 32)
BLOB: Final = Digest("sha256:" + "33" * 32)
CHAIN: Final = ChainId("sha256:" + "44" * 32)
REFERENCE: Final = "docker.io/library/busybox:1.36"
KUBELET: Final = Context(who=2, correlation="k")
CRICTL: Final = Context(who=3, correlation="c")


class Life:
    """Writes events, batch by batch, a second apart."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.store = Store(directory, boot_id=BOOT)
        self.now_ns = BEGAN_NS
        self.envelopes: list[Envelope] = []
        self._versions: dict[str, int] = {}

    def write(
        self, stream: str, *events: Event, context: Context = KUBELET, documents: tuple[Beside, ...] = ()
    ) -> None:
        """Append *events* to *stream*."""
        version = self._versions.get(stream, 0)
        pending = prepare(StreamId(stream), version, events, context, documents)
        for batch in self.store.append_batch([pending], self.now_ns, self.now_ns - BEGAN_NS + S):
            self.envelopes.extend(batch)
        self._versions[stream] = version + len(events)
        self.now_ns += S

    def boot_ns(self) -> int:
        """The boot-time clock."""
        return self.now_ns - BEGAN_NS + S


def write_log(directory: Path) -> list[Envelope]:
    """Write the log and return what is in it."""
    life = Life(directory)
    write_begin(life)
    write_web(life)
    write_job(life)
    life.store.close(stopped_at_ns=life.now_ns)
    return life.envelopes


def write_begin(life: Life) -> None:
    """The daemon starts, two clients connect, an image is pulled."""
    own = Context()
    life.write(
        "node/self",
        node.Started(
            epoch=1, ocid_version="0.1.0", pid=100, kernel="6.1", cgroup_mode="v2", cgroup_driver="cgroupfs",
            config=Digest("sha256:" + "00" * 32), after_clean_stop=True, rebooted=False,
        ),
        node.PeerSeen(
            pid=812, start_ticks=5, uid=0, gid=0, exe="/usr/bin/kubelet", comm="kubelet", cgroup="/system.slice/kubelet"
        ),
        node.PeerSeen(
            pid=900, start_ticks=9, uid=0, gid=0, exe="/usr/bin/crictl", comm="crictl", cgroup="/user.slice",
            login_uid=1004,
        ),
        context=own,
    )  # fmt: skip
    life.write(f"pull/{PULL}", image.PullRequested(pull_id=PULL, reference=REFERENCE, with_credentials=False))
    life.write(
        f"pull/{PULL}",
        image.PullResolved(
            endpoint="https://registry-1.docker.io", manifest=MANIFEST, index=None, image_id=IMAGE, layers=1,
            total_bytes=2_000_000,
        ),
    )  # fmt: skip
    life.write(
        f"layer/{CHAIN}",
        layer.Wanted(
            chain_id=CHAIN, diff_id=BLOB, blob=BLOB, media_type="application/vnd.oci.image.layer.v1.tar+gzip",
            blob_bytes=1_900_000, pull_id=PULL,
        ),
    )  # fmt: skip
    life.write(f"layer/{CHAIN}", layer.Ready(size_bytes=4_000_000, inodes=300))
    life.write(
        "catalog/images",
        image.ImageAdded(image_id=IMAGE, manifest=MANIFEST, config=IMAGE, size_bytes=2_000_000),
        image.ImageNamed(image_id=IMAGE, name=REFERENCE),
    )
    life.write(f"pull/{PULL}", image.PullCompleted(image_id=IMAGE))


def write_web(life: Life) -> None:
    """A pod whose container is stopped by crictl and removed with the pod; it does not heed SIGTERM."""
    created = life.now_ns
    life.write(
        f"pod/{WEB}",
        pod_declared(WEB, name="web", namespace="prod", created_at_ns=created, addresses=("10.85.0.2/16",)),
    )
    life.write(f"pod/{WEB}", pod.Prepared())
    life.write(f"pod/{WEB}", pod.NetworkAttached(addresses=("10.85.0.2",), via="bridge"), pod.Ready())
    _write_running(life, APP, WEB, "app", 4711)
    life.write(f"exec/{PROBE}", exec_requested(PROBE, container_id=APP, argv_brief="cat /health", timeout_s=5))
    life.write(
        f"exec/{PROBE}",
        execution.Finished(exit_code=0, timed_out=False, took_ms=12, stdout_bytes=3, stderr_bytes=0),
    )
    grace = container.StopRequested(grace_ms=2000, kill_at_boot_ns=life.boot_ns() + 2 * S, signal="SIGTERM")
    life.write(f"container/{APP}", grace, context=CRICTL)
    life.now_ns += S
    life.write(f"container/{APP}", container.Exited(at_ns=life.now_ns, exit_code=137, source="monitor"))
    life.write(f"container/{APP}", container.Released(), container.RemoveRequested(), container.Removed())
    life.write(f"pod/{WEB}", pod.StopRequested(), pod.RemoveRequested())
    life.write(f"pod/{WEB}", pod.ContainersStopped(), pod.NetworkDetached(), pod.Stopped(), pod.Removed())


def write_job(life: Life) -> None:
    """A pod that lives: one container was killed for lack of memory, another one runs."""
    life.write(
        f"pod/{JOB}",
        pod_declared(
            JOB, name="job", namespace="prod", uid="u2", created_at_ns=life.now_ns, addresses=("10.85.0.3/16",)
        ),
    )
    life.write(f"pod/{JOB}", pod.Prepared())
    life.write(f"pod/{JOB}", pod.NetworkAttached(addresses=("10.85.0.3",), via="bridge"), pod.Ready())
    _write_running(life, HOG, JOB, "hog", 4800)
    life.write(
        f"container/{HOG}", container.Exited(at_ns=life.now_ns, exit_code=137, oom_killed=True, source="monitor")
    )
    life.write(f"container/{HOG}", container.Released())
    _write_running(life, LATE, JOB, "late", 4900)


def _write_running(life: Life, container_id: ContainerId, pod_id: PodId, name: str, pid: int) -> None:
    stream = f"container/{container_id}"
    life.write(
        stream,
        container_declared(
            container_id, pod_id=pod_id, name=name, created_at_ns=life.now_ns, image_id=IMAGE, secrets=1
        ),
    )
    life.write(stream, container.Prepared(spec=MANIFEST, uid=0, gid=0))
    life.write(stream, container.Created(pid=pid, start_ticks=1))
    life.write(stream, container.StartRequested(), container.Started(at_ns=life.now_ns))
