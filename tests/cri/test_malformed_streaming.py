"""Malformed requests for streaming sessions, and what each is told. A refused one leaves no session, and no token."""

from __future__ import annotations

from typing import Any

import pytest
from grpclib.const import Status

from ocid.cri.facade import Streaming
from tests.cri.daemon import Daemon
from tests.cri.malformed import ABSENT, INVALID, OK, STATE, Case, at, cases, check, prepared
from tests.fakes.tokens import FakeTokens

CONTAINER: list[Case] = [
    ("no container", at("container_id", ""), INVALID, "container_id is empty"),
    ("unknown container", at("container_id", "f" * 64), ABSENT, "not found"),
    ("container outside", at("container_id", "../.."), ABSENT, "not found"),
    ("container with NUL", at("container_id", "a\0b"), ABSENT, "not found"),
    ("container of 300 bytes", at("container_id", "f" * 300), INVALID, "container_id is 300 bytes"),
    ("a pod for a container", at("container_id", "@pod"), ABSENT, "not found"),
    ("container that waits", at("container_id", "@created"), ABSENT, "running container"),
    ("container that ended", at("container_id", "@exited"), ABSENT, "running container"),
    ("no stream", at("stdout", False), INVALID, "none of stdin, stdout and stderr is set"),
    ("no stream but a terminal", lambda message: at("stdout", False)(message) or at("tty", True)(message), INVALID,
     "none of stdin, stdout and stderr is set"),
    ("a terminal with a stderr", lambda message: at("tty", True)(message) or at("stderr", True)(message), INVALID,
     "a terminal has no stderr of its own"),
    ("a terminal", at("tty", True), OK, ""),
    ("stdin and nothing else", lambda message: at("stdout", False)(message) or at("stdin", True)(message), OK, ""),
]  # fmt: skip

EXEC: list[Case] = [
    *CONTAINER,
    ("no command", at("cmd", []), INVALID, "cmd is empty"),
    ("empty command", at("cmd", ["", "a"]), INVALID, "cmd is empty"),
    ("command with NUL", at("cmd", ["a", "\0"]), INVALID, "cmd holds a NUL"),
    ("word of 128 KiB", at("cmd", ["a" * 131072]), INVALID, "a word of 131072 bytes"),
    ("words of 3 MiB", at("cmd", ["a" * 100_000] * 31), INVALID, "the limit is 2097152"),
    ("words of almost 2 MiB", at("cmd", ["a" * 100_000] * 20), OK, ""),
    ("command of escapes", at("cmd", ["\x1b[31m\n\r☃"]), OK, ""),
]

FORWARD: list[Case] = [
    ("no pod", at("pod_sandbox_id", ""), INVALID, "pod_sandbox_id is empty"),
    ("unknown pod", at("pod_sandbox_id", "f" * 64), ABSENT, "not found"),
    ("pod outside", at("pod_sandbox_id", "../.."), ABSENT, "not found"),
    ("pod of 300 bytes", at("pod_sandbox_id", "f" * 300), INVALID, "pod_sandbox_id is 300 bytes"),
    ("a container for a pod", at("pod_sandbox_id", "@running"), ABSENT, "not found"),
    ("port zero", at("port", [0]), INVALID, "port is 0, wanted 1 to 65535"),
    ("port below zero", at("port", [80, -1]), INVALID, "port is -1"),
    ("port above the last", at("port", [65536]), INVALID, "port is 65536"),
    ("port of 32 bits", at("port", [2**31 - 1]), INVALID, "port is 2147483647"),
    ("65 ports", at("port", list(range(1, 66))), INVALID, "port has 65 entries, the limit is 64"),
    ("64 ports", at("port", list(range(65472, 65536))), OK, ""),
    ("one port twice", at("port", [80, 80]), OK, ""),
    ("no port", at("port", []), OK, ""),
]


@pytest.fixture
async def ids(daemon: Daemon) -> dict[str, str]:
    """An image, a pod, and a container of each state, on a daemon with a streaming server."""
    daemon.facade.streaming = Streaming(base_url="http://127.0.0.1:10010", tokens=FakeTokens())
    return await prepared(daemon)


def tokens(daemon: Daemon) -> int:
    assert daemon.facade.streaming is not None
    assert isinstance(daemon.facade.streaming.tokens, FakeTokens)
    return len(daemon.facade.streaming.tokens.grants)


@pytest.mark.parametrize(("change", "status", "words"), cases(EXEC))
async def test_exec(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "Exec", ids, change, status, words)
    assert tokens(daemon) == (status is OK)
    assert len(daemon.core.session_effects.jobs) == (status is OK)


@pytest.mark.parametrize(("change", "status", "words"), cases(CONTAINER))
async def test_attach(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "Attach", ids, change, status, words)
    assert tokens(daemon) == (status is OK)


@pytest.mark.parametrize(("change", "status", "words"), cases(FORWARD))
async def test_port_forward(daemon: Daemon, ids: dict[str, str], change: Any, status: Status, words: str) -> None:
    await check(daemon, "PortForward", ids, change, status, words)
    assert tokens(daemon) == (status is OK)


async def test_a_pod_that_is_stopped_forwards_nothing(daemon: Daemon, ids: dict[str, str]) -> None:
    await check(daemon, "StopPodSandbox", ids | {"@new-pod": ids["@pod"]}, lambda message: None, OK, "")
    await check(daemon, "PortForward", ids, lambda message: None, STATE, "is stopped, not ready")
