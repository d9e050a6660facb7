"""Exec, attach and port-forward through a whole daemon: the RPC's URL, a client like kubectl, the log."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import session as events
from tests.host import daemon as host
from tests.host.daemon import Daemon, Kubelet, refused, wait_for
from tests.host.nodes import SLOW
from tests.streaming.clients import Refused, Result, dial, exec_spdy, exec_websocket, over_spdy

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, daemon, nothing_leaks = host.stage, host.daemon, host.nothing_leaks
kubelet = host.kubelet


@pytest.fixture
def container(kubelet: Kubelet) -> tuple[str, str]:
    pod_id = kubelet.run_pod()
    return pod_id, kubelet.start(pod_id, "sleep", "1000")


def url_of(kubelet: Kubelet, container_id: str, *argv: str, stdin: bool = False) -> str:
    answer = kubelet.call("Exec", container_id=container_id, cmd=argv, stdin=stdin, stdout=True, stderr=True)
    return str(answer.url)


def run(way: str, url: str, stdin: bytes | None = None) -> Result:
    async def session() -> Result:
        stream, path = await dial(url)
        with trio.fail_after(60 * SLOW):
            if way == "spdy":
                return await exec_spdy(stream, path, stdin=stdin)
            return await exec_websocket(stream, path, stdin=stdin)

    return trio.run(session)


def closed(daemon: Daemon, count: int = 1) -> list[Any]:
    """Wait until so many sessions are over, and return how."""

    def found() -> list[Any] | None:
        ends = [one.event for one in daemon.events() if isinstance(one.event, events.Closed)]
        return ends if len(ends) >= count else None

    return list(wait_for(found, "the session is in the log"))


@pytest.mark.parametrize("way", ["spdy", "websocket"])
def test_a_command_with_output_and_exit_code(
    daemon: Daemon, kubelet: Kubelet, container: tuple[str, str], way: str
) -> None:
    before = len([one for one in daemon.events() if isinstance(one.event, events.Closed)])
    result = run(way, url_of(kubelet, container[1], "sh", "-c", "echo out; echo err >&2; exit 7"))

    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 7)
    end = closed(daemon, before + 1)[-1]
    assert (end.exit_code, end.stdout_bytes, end.stderr_bytes) == (7, 4, 4)
    opened = [one.event for one in daemon.events() if isinstance(one.event, events.Opened)][-1]
    assert opened.remote.startswith("127.0.0.1:")


@pytest.mark.parametrize("way", ["spdy", "websocket"])
def test_sixteen_mebibytes_come_back_as_they_went(kubelet: Kubelet, container: tuple[str, str], way: str) -> None:
    sent = os.urandom(1 << 20) * 16
    result = run(way, url_of(kubelet, container[1], "cat", stdin=True), sent)
    assert result.exit_code == 0
    assert result.stdout == sent


def test_a_url_is_good_for_one_client(kubelet: Kubelet, container: tuple[str, str]) -> None:
    url = url_of(kubelet, container[1], "true")
    assert run("spdy", url).exit_code == 0
    with pytest.raises(BaseException) as error:
        run("spdy", url)
    assert error.value.__class__ is Refused or "404" in repr(error.value)


def test_attach_sees_what_the_container_writes(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    config = kubelet.container_config("sh", "-c", 'while read line; do echo "got $line"; done')
    config.stdin = config.stdin_once = True
    container_id = kubelet.start(pod_id, config=config)
    url = str(kubelet.call("Attach", container_id=container_id, stdin=True, stdout=True, stderr=True).url)
    result = run("spdy", url, b"one\ntwo\n")
    assert result.stdout == b"got one\ngot two\n"
    assert kubelet.exited(container_id).exit_code == 0


def test_a_port_of_the_pod_is_reached(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    kubelet.start(pod_id, "nc", "-l", "-p", "8080", "-e", "cat")

    async def session() -> bytes:
        stream, path = await dial(str(kubelet.call("PortForward", pod_sandbox_id=pod_id, port=[8080]).url))
        async with over_spdy(stream, path, "portforward.k8s.io") as client:
            named = {"port": "8080", "requestid": "0"}
            error = await client.create({"streamtype": "error", **named})
            data = await client.create({"streamtype": "data", **named})
            await error.close()
            await data.write(b"there and back")
            await data.close()
            return await data.read_all()

    async def patient() -> bytes:
        with trio.fail_after(30 * SLOW):
            for _ in range(50):  # nc has yet to listen
                if (answer := await session()) != b"":
                    return answer
                await trio.sleep(0.1)
            return b""

    assert trio.run(patient) == b"there and back"


def test_a_daemon_that_dies_ends_its_sessions(daemon: Daemon, kubelet: Kubelet, container: tuple[str, str]) -> None:
    url = url_of(kubelet, container[1], "sleep", "777")

    async def session() -> None:
        stream, path = await dial(url)
        with trio.fail_after(60 * SLOW):
            async with over_spdy(stream, path, "v4.channel.k8s.io") as client:
                for name in ("error", "stdout", "stderr"):
                    await client.create({"streamtype": name})
                wait_for(lambda: "777" in kubelet.sh(container[1], "ps"), "the command runs")
                daemon.kill()

    trio.run(session)
    daemon.start()
    with daemon.client() as cri:
        after = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        assert "777" not in after.sh(container[1], "ps")
        assert "session.abandoned" in daemon.types()
        assert after.status(container[1]).state == pb.CONTAINER_RUNNING
        assert run("spdy", url_of(after, container[1], "echo", "again")).stdout == b"again\n"


def test_what_cannot_be_is_refused(kubelet: Kubelet, container: tuple[str, str]) -> None:
    bad = ({"tty": True, "stdout": True, "stderr": True, "cmd": ["sh"]}, {"cmd": ["sh"]}, {"stdout": True})
    for fields in bad:
        with pytest.raises(GRPCError) as error:
            kubelet.call("Exec", container_id=container[1], **fields)
        assert refused(error)[0] is Status.INVALID_ARGUMENT
    with pytest.raises(GRPCError) as error:
        kubelet.call("Exec", container_id="no-such", cmd=["sh"], stdout=True)
    assert refused(error)[0] is Status.NOT_FOUND
