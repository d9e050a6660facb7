"""Clients that join a container's program through its monitor, and connections into network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import trio

from ocid.adapters import attach as attaching, linux, process as processes
from ocid.adapters.links import inside
from ocid.adapters.streams import HostStreams
from ocid.errors import EffectFailed
from ocid.ports import ContainerOrder, Process, Signalled
from ocid.ports.streaming import Size, StreamEnd
from tests.fakes.clients import FakeClient
from tests.host.nodes import SLOW
from tests.host.support import World, container_order, log_lines, oci_spec


@asynccontextmanager
async def container(world: World, *args: str, **fields: bool) -> AsyncIterator[tuple[ContainerOrder, Process]]:
    order = container_order(world, **fields)
    spec = oci_spec(world, order, *args)
    spec["process"]["terminal"] = bool(fields.get("tty"))
    await world.runtime.write_bundle(order, spec)
    init = await world.runtime.create(order)
    await world.runtime.start(order)
    try:
        yield order, init
    finally:
        with trio.CancelScope(shield=True):
            await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=True))
            await world.runtime.wait(order, init)
            await world.runtime.delete(order)


@pytest.fixture
def streams(world: World) -> HostStreams:
    return HostStreams(world.runtime, world.run / "tmp")


class Attached:
    """A client that is attached in the background."""

    def __init__(self, streams: HostStreams, order: ContainerOrder, nursery: trio.Nursery, *, stdin: bool) -> None:
        self.client = FakeClient(None)
        self.ended = trio.Event()
        self.end: StreamEnd | None = None

        async def run() -> None:
            self.end = await streams.attach(order, self.client, stdin=stdin)
            self.ended.set()

        nursery.start_soon(run)

    async def leave(self) -> StreamEnd:
        self.client.leave()
        return await self.over()

    async def over(self) -> StreamEnd:
        with trio.fail_after(5 * SLOW):
            await self.ended.wait()
        assert self.end is not None
        return self.end


ECHO = 'echo began >&2; while read line; do echo "out $line"; echo "err $line" >&2; done; exit 5'


async def test_two_clients_see_the_same_and_both_type(world: World, streams: HostStreams) -> None:
    async with container(world, "/bin/sh", "-c", ECHO, stdin=True) as (order, init), trio.open_nursery() as nursery:
        one, two = (Attached(streams, order, nursery, stdin=True) for _ in range(2))
        await trio.sleep(0.1)
        one.client.type(b"1\n")
        for each in (one, two):
            await each.client.until(lambda each=each: each.client.out == b"out 1\n" and b"err 1\n" in each.client.err)
        two.client.type(b"2\n")
        for each in (one, two):
            await each.client.until(lambda each=each: each.client.out == b"out 1\nout 2\n")
        end = await one.leave()
        assert (end.exit_code, end.stdin_bytes, end.stdout_bytes) == (None, 2, 12)
        assert processes.alive(init), "detaching kills nothing"
        two.client.type(b"3\n")
        await two.client.until(lambda: b"out 3\n" in two.client.out)
        again = Attached(streams, order, nursery, stdin=True)
        again.client.type(b"4\n")
        await again.client.until(lambda: again.client.out == b"out 4\n")
        await world.runtime.signal(order, init, Signalled(signal=signal.SIGKILL, everyone=False))
        for each in (two, again):
            assert (await each.over()).reason == ""
    assert ("stdout", "F", "out 3") in log_lines(order)


async def test_a_terminal_has_one_output_and_the_clients_size(world: World, streams: HostStreams) -> None:
    async with container(world, "/bin/sh", stdin=True, tty=True) as (order, init), trio.open_nursery() as nursery:
        one, two = (Attached(streams, order, nursery, stdin=True) for _ in range(2))
        one.client.resize(Size(columns=91, rows=33))
        await trio.sleep(0.2)
        one.client.type(b"stty size; echo err >&2\n")
        for each in (one, two):
            await each.client.until(lambda each=each: b"33 91\r\nerr\r\n" in each.client.out)
            assert each.client.err == b""
        await one.leave()
        await two.leave()
        assert processes.alive(init)


@pytest.mark.parametrize("tty", [False, True])
async def test_a_client_without_stdin_only_looks_on(world: World, streams: HostStreams, tty: bool) -> None:
    fields = {"stdin": True, "tty": tty}
    async with container(world, "/bin/sh", "-c", ECHO, **fields) as (order, _), trio.open_nursery() as nursery:
        types, looks = Attached(streams, order, nursery, stdin=True), Attached(streams, order, nursery, stdin=False)
        await trio.sleep(0.1)
        looks.client.type(b"ignored\n")
        types.client.type(b"1\n")
        for each in (types, looks):
            await each.client.until(lambda each=each: b"out 1" in each.client.out)
        assert b"ignored" not in looks.client.out
        await looks.leave()
        await types.leave()


async def test_stdin_once_ends_with_its_first_client(world: World, streams: HostStreams) -> None:
    fields = {"stdin": True, "stdin_once": True}
    async with container(world, "/bin/sh", "-c", "cat; echo over", **fields) as (order, _):
        async with trio.open_nursery() as nursery:
            one = Attached(streams, order, nursery, stdin=True)
            one.client.type(b"last words\n")
            one.client.close_stdin()
            end = await one.over()
        assert one.client.out == b"last words\nover\n"
        assert (end.stdin_bytes, end.reason) == (11, "")


async def test_stdin_that_is_not_once_outlives_a_half_close(world: World, streams: HostStreams) -> None:
    async with container(world, "/bin/sh", "-c", ECHO, stdin=True) as (order, init), trio.open_nursery() as nursery:
        one = Attached(streams, order, nursery, stdin=True)
        one.client.type(b"1\n")
        one.client.close_stdin()
        await one.client.until(lambda: one.client.out == b"out 1\n")
        two = Attached(streams, order, nursery, stdin=True)
        two.client.type(b"2\n")
        for each in (one, two):
            await each.client.until(lambda each=each: b"out 2\n" in each.client.out)
        assert processes.alive(init)
        await one.leave()
        await two.leave()


async def test_a_container_without_stdin_takes_none(world: World, streams: HostStreams) -> None:
    script = "while true; do echo tick; sleep 0.05; done"
    async with container(world, "/bin/sh", "-c", script) as (order, _), trio.open_nursery() as nursery:
        one = Attached(streams, order, nursery, stdin=True)
        one.client.type(b"1\n")
        await one.client.until(lambda: one.client.out.count(b"tick") > 2)
        assert (await one.leave()).stdin_bytes == 0


async def test_a_client_that_takes_nothing_is_let_go_and_holds_up_nobody(
    world: World, streams: HostStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "STALL_S", 0.5 * SLOW)
    script = "i=0; while true; do echo $i; head -c 20000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done"
    async with container(world, "/bin/sh", "-c", script) as (order, _), trio.open_nursery() as nursery:
        stuck, well = (Attached(streams, order, nursery, stdin=False) for _ in range(2))
        stuck.client.reads = trio.Event()
        await stuck.over()
        assert stuck.end is not None
        assert "did not catch up" in stuck.end.reason
        before = len(well.client.out)
        await well.client.until(lambda: len(well.client.out) > before + (4 << 20))
        await well.leave()


async def test_a_large_output_arrives_whole_and_in_order(world: World, streams: HostStreams) -> None:
    fields = {"stdin": True, "stdin_once": True}
    script = "read go; seq 1 500000"
    async with container(world, "/bin/sh", "-c", script, **fields) as (order, _), trio.open_nursery() as nursery:
        one = Attached(streams, order, nursery, stdin=True)
        one.client.type(b"go\n")
        with trio.fail_after(20 * SLOW):
            await one.ended.wait()
        assert one.client.out == b"".join(b"%d\n" % n for n in range(1, 500_001))


async def test_a_large_input_arrives_whole(world: World, streams: HostStreams) -> None:
    fields = {"stdin": True, "stdin_once": True}
    async with container(world, "/bin/sh", "-c", "wc -c", **fields) as (order, _), trio.open_nursery() as nursery:
        one = Attached(streams, order, nursery, stdin=True)
        for _ in range(160):
            one.client.type(bytes(65_000))
        one.client.close_stdin()
        end = await one.over()
        assert (one.client.out, end.stdin_bytes) == (b"10400000\n", 10_400_000)


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.fixture
def netns(run_dir: Path) -> Iterator[str]:
    """A network namespace with loopback up, pinned."""
    pin = run_dir / "net"
    pin.touch()

    def make() -> None:
        linux.unshare(linux.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        linux.mount("/proc/thread-self/ns/net", str(pin), None, linux.MS_BIND)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    yield str(pin)
    linux.umount(str(pin), linux.MNT_DETACH)


@contextmanager
def echo_server(netns: str, family: socket.AddressFamily, address: str) -> Iterator[int]:
    """Run a server of one connection inside a namespace, which sends back what it is sent; yields its port."""
    descriptor = os.open(netns, os.O_RDONLY)
    listener = inside(descriptor, lambda: socket.create_server((address, 0), family=family))
    os.close(descriptor)

    def serve() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                while data := peer.recv(1 << 18):
                    peer.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(5)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_a_connection_reaches_a_server_in_the_namespace(
    streams: HostStreams, netns: str, family: socket.AddressFamily, address: str
) -> None:
    ours = os.readlink("/proc/thread-self/ns/net")
    with echo_server(netns, family, address) as port:
        connection = await streams.connect(netns, port)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(64):
                    await connection.send_all(bytes(1 << 20))
                await connection.send_eof()

            nursery.start_soon(send)
            total = 0
            while data := await connection.receive_some(65536):
                total += len(data)
        assert total == 64 << 20
        await connection.aclose()
    assert os.readlink("/proc/thread-self/ns/net") == ours
    assert {os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")} == {ours}


async def test_a_port_that_nobody_listens_on_is_refused(streams: HostStreams, netns: str) -> None:
    with pytest.raises(EffectFailed, match=r"port 8081 of the pod: 127\.0\.0\.1: .*refused; ::1: .*refused"):
        await streams.connect(netns, 8081)


async def test_a_namespace_that_is_gone_is_an_error(streams: HostStreams, netns: str) -> None:
    with pytest.raises(EffectFailed, match="No such file"):
        await streams.connect(f"{netns}-no", 80)
    with pytest.raises(EffectFailed, match="Invalid argument"):
        await streams.connect("/proc/version", 80)


async def test_the_hosts_own_network_is_reached_without_a_namespace(streams: HostStreams) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        connection = await streams.connect("", listener.getsockname()[1])
        peer, _ = listener.accept()
        peer.close()
        assert await connection.receive_some(10) == b""
        await connection.aclose()


async def test_a_server_that_never_answers_is_given_up(
    streams: HostStreams, netns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocid.adapters.streams.CONNECT_S", 0.2)
    descriptor = os.open(netns, os.O_RDONLY)
    listener = inside(descriptor, lambda: socket.create_server(("127.0.0.1", 8082), backlog=0))
    os.close(descriptor)
    filler = [await streams.connect(netns, 8082)]
    began = time.monotonic()

    async def fill() -> None:
        while len(filler) < 5:
            filler.append(await streams.connect(netns, 8082))

    try:
        with pytest.raises(EffectFailed, match=r"127\.0\.0\.1: no answer in 0\.2 s"):
            await fill()
        assert time.monotonic() - began < 2 * SLOW
    finally:
        listener.close()
        for one in filler:
            await one.aclose()
