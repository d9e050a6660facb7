"""Where plugins come from: the socket, and the directory. Real sockets, no root's rights beyond a file's owner."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ocid.errors import AlreadyExists, EffectFailed
from ocid.nri import endpoint
from ocid.nri.service import NriPlugins
from ocid.nri.settings import NriSettings
from tests.nri.plugin import TestPlugin
from tests.nri.test_service import FakeNode

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only what root owns is started")


class FakeChild:
    """A started program: here, a plugin in this process."""

    def __init__(self) -> None:
        self.pid = 4711
        self.ended = False

    async def end(self) -> None:
        self.ended = True


class Spawner:
    """Starts what is asked for as a plugin in this process."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.started: list[tuple[list[str], dict[str, str]]] = []
        self.children: list[FakeChild] = []
        self.plugins: list[TestPlugin] = []
        self.error: EffectFailed | None = None

    def __call__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], descriptors: Mapping[int, int], new_session: bool
    ) -> FakeChild:
        if self.error is not None:
            raise self.error
        assert new_session
        assert set(descriptors) == {0, 1, 2, 3}
        self.started.append((list(argv), dict(environment)))
        plugin = TestPlugin("whatever", "99")
        self.plugins.append(plugin)
        sock = socket.socket(fileno=os.dup(descriptors[3]))
        self.nursery.start_soon(_run, plugin, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
        self.children.append(FakeChild())
        return self.children[-1]


async def _run(plugin: TestPlugin, stream: trio.SocketStream) -> None:
    async with stream:
        await plugin.run(stream)


@asynccontextmanager
async def served(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[FakeNode, Spawner, NriPlugins]]:
    """Serve until the block ends."""
    settings = NriSettings(
        socket=tmp_path / "s" / "nri.sock", plugin_dir=tmp_path / "plugins", config_dir=tmp_path, **options
    )
    plugins, node = NriPlugins(settings), FakeNode()
    async with trio.open_nursery() as outer:
        spawner = Spawner(outer)
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve, plugins, node, spawner)
            yield node, spawner, plugins
            nursery.cancel_scope.cancel()
        outer.cancel_scope.cancel()


def program(directory: Path, name: str, mode: int = 0o755) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


async def settled(holds: Any) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110 (real sockets tell nobody)
            await trio.sleep(0.01)


async def test_plugins_connect_to_a_socket_that_is_roots_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as (node, _, plugins):
        path = tmp_path / "s" / "nri.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        one = TestPlugin("one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, one, await trio.open_unix_socket(path))
            await settled(lambda: node.log == [("joined", "10-one")])
            await plugins.take_leave()
            assert one.heard == ["Shutdown"]
            nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_when_the_daemon_goes_plugins_hear_of_it(tmp_path: Path) -> None:
    one = TestPlugin("one")
    async with trio.open_nursery() as nursery:
        async with served(tmp_path) as (node, _, _plugins):
            nursery.start_soon(_run, one, await trio.open_unix_socket(tmp_path / "s" / "nri.sock"))
            await settled(lambda: node.log)
        assert one.heard == ["Shutdown"]


async def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s" / "nri.sock"))
    async with served(tmp_path):
        await (await trio.open_unix_socket(tmp_path / "s" / "nri.sock")).aclose()


async def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "nri.sock").write_text("precious")
    with pytest.RaisesGroup(AlreadyExists, flatten_subgroups=True):
        async with served(tmp_path):
            raise AssertionError("it must not serve")
    (tmp_path / "s" / "nri.sock").unlink()
    async with served(tmp_path):
        with pytest.RaisesGroup(AlreadyExists, flatten_subgroups=True):
            async with served(tmp_path):
                raise AssertionError("it must not serve")


async def test_a_directory_that_is_none_is_told_as_an_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.RaisesGroup(EffectFailed, flatten_subgroups=True):
        async with served(tmp_path):
            raise AssertionError("it must not serve")


@as_root
async def test_the_directorys_plugins_are_there_before_anything_is_served(tmp_path: Path) -> None:
    program(tmp_path / "plugins", "20-two")
    program(tmp_path / "plugins", "10-one")
    async with served(tmp_path, disable_external=True) as (node, spawner, _):
        assert node.log == [("joined", "10-one"), ("joined", "20-two")]
        argv, environment = spawner.started[0]
        assert argv == [str(tmp_path / "plugins" / "10-one")]
        assert environment == {"NRI_PLUGIN_IDX": "10", "NRI_PLUGIN_NAME": "one", "NRI_PLUGIN_SOCKET": "3"}
        assert not (tmp_path / "s").exists(), "external plugins are off"
    assert all(child.ended for child in spawner.children)
    assert spawner.plugins[0].heard == ["Shutdown"]


@as_root
async def test_one_that_cannot_be_started_is_left_out(tmp_path: Path) -> None:
    program(tmp_path / "plugins", "10-one")
    settings = NriSettings(socket=tmp_path / "nri.sock", plugin_dir=tmp_path / "plugins", config_dir=tmp_path)
    async with trio.open_nursery() as nursery:
        spawner = Spawner(nursery)
        spawner.error = EffectFailed("no")
        node = FakeNode()
        await nursery.start(endpoint.serve, NriPlugins(settings), node, spawner)
        assert node.log == []
        nursery.cancel_scope.cancel()


@as_root
def test_only_programs_that_only_root_can_write_are_plugins(tmp_path: Path) -> None:
    directory = tmp_path / "plugins"
    assert endpoint.discovered(directory) == []
    good = program(directory, "10-good.name")
    program(directory, "20-data", 0o644)
    program(directory, "30-loose", 0o775)
    program(directory, "readme")
    program(directory, "1-short")
    program(directory, "40-")
    (directory / "50-directory").mkdir()
    (directory / "60-nowhere").symlink_to("/nonexistent")
    os.chown(program(directory, "70-other"), 12345, 0)

    assert endpoint.discovered(directory) == [("10", "good.name", good)]
    assert endpoint.discovered(good) == []


async def test_too_many_plugins_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "CONNECTIONS_MAX", 2)
    async with served(tmp_path) as (node, _, _plugins), trio.open_nursery() as nursery:
        path = tmp_path / "s" / "nri.sock"
        for number in range(2):
            nursery.start_soon(_run, TestPlugin(f"p{number}"), await trio.open_unix_socket(path))
        await settled(lambda: len(node.log) == 2)
        third = await trio.open_unix_socket(path)
        assert await third.receive_some() == b""
        await third.aclose()
        nursery.cancel_scope.cancel()
