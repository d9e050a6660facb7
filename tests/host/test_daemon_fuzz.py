"""Requests that no client sends, to a real daemon: it says whose fault each was, lives on, and leaves nothing behind.

Each is good but for one field, as ``tests.cri.fuzzing`` sweeps them, in random order, and tamed so that it stays in the
test's own directories, cgroups and registry. A tool or the kernel may refuse what a fake does not know about, with
UNKNOWN and its words. ``OCID_FUZZ_SECONDS=300`` goes on for so long at most, and tells what each request type was
answered and what tools said.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from tests.conftest import FUZZED
from tests.cri import fuzzing
from tests.cri.daemon import IMAGE as FUZZED_IMAGE
from tests.cri.played import OURS
from tests.cri.test_fuzz import SECONDS, SEED
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage
from tests.host.kubelet import wait_for
from tests.host.nodes import SLOW
from tests.streaming.clients import request
from tests.streaming.test_limits import SPDY, WEBSOCKET

pytestmark = [pytest.mark.host, pytest.mark.timeout((90 + 2 * SECONDS) * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SOON = "import ocid.actors.session\nocid.actors.session.TOKEN_S = 1.0\n"
REQUESTS = 200  # of a run in the suite, of some eight thousand
LENGTH = 12  # requests until what they took away is made again
CLEARED = 240  # requests until all pods are removed: the subnet has no more addresses
VALUES_MAX = 1000  # of one field: all
DEADLINES_S = {"GetContainerEvents": 0.05, "CheckpointContainer": 20.0}  # for the others
DEADLINE_S = 20.0
STARTED = 0.5  # of what is created
START = next(one for one in fuzzing.METHODS if one.name == "StartContainer")
OUTSIDE = ("host_path", "log_directory", "location", "localhost_ref")  # fields that are paths of the host
HARMLESS = ("/dev/null",)
PULLED = ("image", "user_specified_image", "image_ref")


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None) -> Iterator[Daemon]:
    """A daemon that does not wait long for the clients of sessions."""
    with stage.daemon({"streaming": {"creation_timeout_s": 1}}, prelude=SOON) as one:
        yield one
        one.check_log()


class Player:
    """Sends requests to one daemon, and keeps what there is to name."""

    def __init__(self, daemon: Daemon, kubelet: Kubelet) -> None:
        self.daemon, self.kubelet = daemon, kubelet
        self.scratch = daemon.directory / "scratch"
        self.ids = {"@gone-pod": "f" * 64, "@gone-container": "e" * 64}
        self.answers: Counter[tuple[str, str]] = Counter()
        self.faults: dict[str, str] = {}
        self.said: dict[str, str] = {}  # by tools and the kernel
        self._dice = random.Random(0)

    def replenish(self) -> None:
        """Have an image, a pod, and a container of each state."""
        kubelet, ids = self.kubelet, self.ids
        ids["@image"] = kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE)).image_ref
        ids["@image-short"] = ids["@image"].removeprefix("sha256:")[:12]
        if not self._is("PodSandboxStatus", "@pod", pb.SANDBOX_READY):
            ids["@pod"] = kubelet.run_pod()
        if not self._is("PodSandboxStatus", "@new-pod", pb.SANDBOX_READY):
            ids["@new-pod"] = kubelet.run_pod()
        number = f"c{time.monotonic_ns()}"
        for marker, state in (("@running", pb.CONTAINER_RUNNING), ("@created", pb.CONTAINER_CREATED),
                              ("@exited", pb.CONTAINER_EXITED), ("@new-container", pb.CONTAINER_RUNNING)):  # fmt: skip
            if not self._is("ContainerStatus", marker, state):
                words = ("true",) if marker == "@exited" else ("sleep", "1000")
                ids[marker] = kubelet.create(ids["@pod"], *words, name=f"{marker[1:]}{number}")
                if marker != "@created":
                    kubelet.call("StartContainer", container_id=ids[marker])
        for name in ("@pod", "@running"):
            ids[f"{name}-short"], ids[f"{name}-longer"] = ids[name][:12], ids[name] + "0"

    def _is(self, rpc: str, marker: str, state: int) -> bool:
        field = "pod_sandbox_id" if rpc == "PodSandboxStatus" else "container_id"
        try:
            return bool(self.kubelet.call(rpc, **{field: self.ids.get(marker, "0" * 64)}).status.state == state)
        except GRPCError:
            return False

    # --- requests ----------------------------------------------------------------------------------------------------

    def send(self, request: fuzzing.Request) -> None:
        """Send one request and judge its answer."""
        name, message = request.method.name, fuzzing.resolved(request.message, self.ids)
        self._tame(name, message)
        try:
            reply = self.kubelet.begin(name, message, deadline_s=DEADLINES_S.get(name, DEADLINE_S)).result(60)
        except GRPCError as error:
            self.answers[name, error.status.name] += 1
            words = f"{name}: {error.status.name}: {error.message}"
            if error.status is Status.INTERNAL or any(one in (error.message or "") for one in OURS):
                self.faults[_kind(words)] = f"{words}\n    {message!s:.1500}"
            elif error.status is Status.UNKNOWN:
                self.said[_kind(words)] = f"{words}\n    {message!s:.500}"
            elif error.status is Status.DEADLINE_EXCEEDED and name not in ("GetContainerEvents", "ExecSync"):
                self.faults[_kind(words)] = f"{words}\n    {message!s:.1500}"
        except TimeoutError:
            self.answers[name, "gone"] += 1
            if name != "GetContainerEvents":
                self.faults[name] = f"{name} was not answered in time\n    {message!s:.1500}"
        else:
            self.answers[name, "OK"] += 1
            self._keep(reply)
        assert self.daemon.alive, f"{name} killed the daemon: {message!s:.1500}\n{self.daemon.said()}"

    def _keep(self, reply: Any) -> None:
        if isinstance(reply, pb.RunPodSandboxResponse):
            self.ids["@new-pod"] = reply.pod_sandbox_id
        elif isinstance(reply, pb.CreateContainerResponse):
            self.ids["@new-container"] = reply.container_id
            if self._dice.random() < STARTED:
                self.send(fuzzing.Request(START, pb.StartContainerRequest(container_id=reply.container_id)))
        elif isinstance(reply, pb.ExecResponse | pb.AttachResponse | pb.PortForwardResponse):
            self._open(reply.url)

    def _open(self, url: str) -> None:
        """Come for a session, and speak badly."""
        parts, dice = urlsplit(url), self._dice
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port), 5) as client:
            client.sendall(request(parts.path, dice.choice((SPDY, WEBSOCKET, {}))))
            client.sendall(dice.randbytes(dice.choice((0, 20, 3000))))
            client.settimeout(dice.choice((0.001, 0.05)))
            client.recv(4096)

    # --- taming ------------------------------------------------------------------------------------------------------

    def _tame(self, name: str, message: Any) -> None:
        """Keep a request within what is the test's own."""
        self._walk(message)
        if name == "PullImage" and message.image.image:  # from nowhere but the test's registry
            own = self.daemon.registry.host
            message.image.image = self._dice.choice((IMAGE, f"{own}/test/busybox:1", f"{own}/none:1", f"{own}/UP:1"))
        elif name == "StopContainer":
            message.timeout = min(message.timeout, 1)

    def _walk(self, message: Any) -> None:
        for field, value in list(message.ListFields()):
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.message_type is not None:
                for one in value if field.is_repeated else (value,):
                    self._walk(one)
            elif field.name == "cgroup_parent":
                message.cgroup_parent = f"{self.daemon.cgroup_parent}/{value}"
            elif field.name in OUTSIDE and value.startswith("/") and value not in HARMLESS:
                setattr(message, field.name, f"{self.scratch}{value}")
            elif field.name in PULLED and value == FUZZED_IMAGE:
                setattr(message, field.name, IMAGE)
            elif field.is_repeated and list(value) == ["serve"]:
                value[:] = ["sleep", "1000"]
            elif field.name == "cmd":
                value[:] = ["true" if word.startswith("run:") else word for word in value]


def _kind(words: str) -> str:
    """Two messages of one kind are told apart by their ids and numbers at most."""
    return re.sub(r"[0-9a-f]{12,}|[0-9]+", "#", words)[:160]


def test_no_request_kills_a_real_daemon_or_leaves_anything(
    daemon: Daemon, kubelet: Kubelet, request: pytest.FixtureRequest
) -> None:
    player, pid, until = Player(daemon, kubelet), daemon.pid, time.monotonic() + SECONDS
    sent = [one for method in fuzzing.METHODS for one in fuzzing.sweep(method, VALUES_MAX)]
    random.Random(SEED).shuffle(sent)
    try:
        for number, one in enumerate(sent if SECONDS else sent[:REQUESTS]):
            if SECONDS and time.monotonic() > until:
                break
            if number % CLEARED == 0:
                kubelet.remove_everything()
            if number % LENGTH == 0:
                player.replenish()
            player.send(one)
    finally:
        shutil.rmtree(player.scratch, ignore_errors=True)
        if SECONDS:
            request.config.stash.setdefault(FUZZED, Counter()).update(player.answers)
            print("\n".join(words.partition("\n")[0] for words in player.said.values()))
    assert not player.faults, "\n".join(player.faults.values())
    assert daemon.pid == pid
    home = str(daemon.run)  # it goes elsewhere for the moment in which it starts a monitor
    wait_for(lambda: os.readlink(f"/proc/{pid}/cwd") == home, "the daemon is at home")
    assert "nobody foresaw" not in daemon.said()
