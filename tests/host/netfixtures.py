"""A node of one's own for network tests: nothing they do is seen by the machine, and nothing of it is left.

``in_node`` runs a test in a forked child with a network and a mount namespace of its own: the *node*, which has an
uplink to an *outside* namespace. Pods are further network namespaces, pinned below the test's directory. When the child
ends, the kernel takes everything down.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import os
import select
import signal
import socket
import subprocess
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ocid.adapters.links import inside
from ocid.ports import NetworkOrder
from tests.host.nodes import SLOW

CHILD_S_MAX = 50 * SLOW
NODE_ADDRESSES = ("192.0.2.2", "2001:db8:1::2")
OUTSIDE_ADDRESSES = ("192.0.2.1", "2001:db8:1::1")
UPLINK_MTU = 1400

_LIBC = ctypes.CDLL(None, use_errno=True)


class Node:
    """The node's namespaces, and sockets inside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outside = self.netns("outside")
        sh("ip link set lo up")
        sh(f"ip link add uplink0 mtu {UPLINK_MTU} type veth peer name out0 netns {self.outside}")
        for address, bits in zip(NODE_ADDRESSES, (24, 64), strict=True):
            sh(
                f"ip addr add {address}/{bits} dev uplink0 nodad"
                if ":" in address
                else f"ip addr add {address}/{bits} dev uplink0"
            )
        sh("ip link set uplink0 up")
        self.sh_in(self.outside, "ip link set lo up")
        self.sh_in(self.outside, "ip link set out0 up")
        for address, bits in zip(OUTSIDE_ADDRESSES, (24, 64), strict=True):
            nodad = " nodad" if ":" in address else ""
            self.sh_in(self.outside, f"ip addr add {address}/{bits} dev out0{nodad}")
        sh(f"ip route add default via {OUTSIDE_ADDRESSES[0]}")
        sh(f"ip -6 route add default via {OUTSIDE_ADDRESSES[1]}")

    def netns(self, name: str) -> str:
        """Make a network namespace and return the path that it is pinned at."""
        path = self.directory / name
        path.touch()
        sh(f"unshare --net={path} true")
        return str(path)

    def order(self, name: str, addresses: tuple[str, ...] = (), **changes: Any) -> NetworkOrder:
        """Return the order of a pod called *name*, whose namespace is made unless *netns* says otherwise."""
        pod_id = hashlib.sha256(name.encode()).hexdigest()
        fields: dict[str, Any] = {
            "pod_id": pod_id,
            "name": name,
            "namespace": "tests",
            "uid": f"uid-{name}",
            "network": "bridge",
            "interface": f"nettest{pod_id[:8]}",
            "addresses": addresses,
            "hostname": name,
            "port_mappings": (),
            "annotations": {},
            **changes,
        }
        if "netns" not in fields:
            fields["netns"] = self.netns(name)
        return NetworkOrder(**fields)

    def sh_in(self, netns: str, command: str) -> str:
        """Run a command in a namespace and return its output."""
        return sh(f"nsenter --net={netns} {command}")

    def within(self, netns: str, work: Callable[[], Any]) -> Any:
        """Run *work* in a namespace; a socket that it opens stays there."""
        descriptor = os.open(netns, os.O_RDONLY)
        try:
            return inside(descriptor, work)
        finally:
            os.close(descriptor)

    def listen(self, netns: str, port: int, family: int = socket.AF_INET6) -> socket.socket:
        """Listen for TCP on all addresses of a namespace."""

        def server() -> socket.socket:
            found = socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)
            found.settimeout(2)
            return found

        return self.within(netns, server)

    def connect(self, netns: str | None, address: str, port: int, timeout: float = 2) -> socket.socket:
        """Connect from a namespace, None for the node's own."""

        def client() -> socket.socket:
            return socket.create_connection((address, port), timeout=timeout)

        return client() if netns is None else self.within(netns, client)

    def reaches(self, netns: str | None, address: str, server: socket.socket, port: int | None = None) -> str:
        """Connect to *server* at *address*, pass a byte, and return the address that it saw us come from."""
        with self.connect(netns, address, port or server.getsockname()[1]) as client:
            client.sendall(b"!")
            accepted, peer = server.accept()
            with accepted:
                accepted.settimeout(2)
                assert accepted.recv(1) == b"!"
            return str(peer[0]).removeprefix("::ffff:")


def traces() -> set[str]:
    """Return what of these tests is seen on the machine itself: links and nftables tables with their names."""
    links = {line.split(": ")[1].partition("@")[0] for line in sh("ip -o link show").splitlines()}
    tables = {line.split()[-1] for line in sh("nft list tables").splitlines()}
    ours = {"ocidt0", "ocidt1", "ocidc0", "ocid_ocidt0", "ocid_ocidt1", "uplink0"}
    return {name for name in links | tables if name in ours or name.startswith("nettest")}


def sh(command: str) -> str:
    """Run a command of plain words and return its output; a failure shows what it said."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def note(numbers: str) -> None:
    """Append measured numbers to the file named by OCID_NUMBERS, if it is set."""
    if path := os.environ.get("OCID_NUMBERS"):
        with open(path, "a") as file:
            print(numbers, file=file)


def in_node(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test ``(node, fixtures…)`` in a node of its own. Needs the fixture ``tmp_path``."""
    parameters = [p for p in inspect.signature(test).parameters.values() if p.name != "node"]
    if not any(parameter.name == "tmp_path" for parameter in parameters):
        parameters.append(inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD))
    wants_path = "tmp_path" in inspect.signature(test).parameters

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        path = fixtures["tmp_path"] if wants_path else fixtures.pop("tmp_path")
        _fork(lambda: trio.run(functools.partial(test, Node(path), **fixtures)))

    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _fork(work: Callable[[], None]) -> None:
    """Run *work* in a child with its own namespaces; raise what it raised, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, writing)
    os.close(writing)
    try:
        said = b""
        deadline = CHILD_S_MAX
        while True:
            if not select.select([reading], [], [], deadline)[0]:
                raise AssertionError(f"the test did not end within {CHILD_S_MAX} s")
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            said += chunk
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if said != b"passed":
        raise AssertionError(f"in the node: {said.decode(errors='replace') or 'the child died'}")


def _child(work: Callable[[], None], writing: int) -> None:
    said = "passed"
    try:
        os.set_inheritable(writing, False)
        private = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
        assert _LIBC.unshare(0x40000000 | 0x00020000) == 0  # CLONE_NEWNET | CLONE_NEWNS
        assert _LIBC.mount(b"none", b"/", None, private, None) == 0
        work()
    except BaseException:
        said = traceback.format_exc()
    with os.fdopen(writing, "w") as pipe:
        pipe.write(said)
    os._exit(0)
