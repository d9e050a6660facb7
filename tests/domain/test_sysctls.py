"""Kernel parameters: whose they are, and that only namespaced ones pass."""

from __future__ import annotations

import pytest

from ocid.domain import sysctls
from ocid.domain.configs import NamespaceMode, NamespaceOptions
from ocid.errors import InvalidRequest

ALL = frozenset({"net", "ipc", "uts"})


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("net.core.somaxconn", "net/core/somaxconn", "net"),
        ("net/core/somaxconn", "net/core/somaxconn", "net"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding", "net"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", "net"),
        ("kernel.shmmax", "kernel/shmmax", "ipc"),
        ("kernel.sem", "kernel/sem", "ipc"),
        ("kernel/msgmni", "kernel/msgmni", "ipc"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max", "ipc"),
        ("kernel.domainname", "kernel/domainname", "uts"),
        ("kernel.pid_max", "kernel/pid_max", ""),
        ("kernel.shm", "kernel/shm", ""),
        ("vm.swappiness", "vm/swappiness", ""),
        ("fs.mqueue", "fs/mqueue", ""),
        ("network.x", "network/x", ""),
    ],
)
def test_whose_it_is(name: str, path: str, kind: str) -> None:
    assert sysctls.path_of(name) == path
    assert sysctls.namespace_of(name) == kind


@pytest.mark.parametrize(
    "name",
    ["", "net", "net.", ".net.x", "net..x", "net./x", "net/../kernel/pid_max", "net.ipv4.a b", "net.ä", "/proc/sys/x",
     "net.ipv4.conf.*.forwarding", "net.x\n", "net." + "x" * 250],
)  # fmt: skip
def test_what_is_no_name_is_refused_by_that(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name"):
        sysctls.check([name], ALL)


@pytest.mark.parametrize(
    ("name", "own", "says"),
    [
        ("net.core.somaxconn", {"ipc"}, "needs a pod's own net namespace"),
        ("kernel.shmmax", {"net", "uts"}, "needs a pod's own ipc namespace"),
        ("kernel.domainname", {"ipc"}, "needs a pod's own uts namespace"),
        ("vm.swappiness", ALL, "'vm.swappiness' is the whole host's"),
        ("kernel.hostname", ALL, "contradict the pod's hostname"),
    ],
)
def test_what_is_not_the_pods_own_is_refused_by_name(name: str, own: set[str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        sysctls.check(["net.ipv4.ip_forward"] if name == "" else [name], frozenset(own))


def test_what_is_the_pods_own_passes() -> None:
    sysctls.check(["net.core.somaxconn", "kernel.shmmax", "kernel.domainname"], ALL)


def test_the_namespaces_of_a_pod() -> None:
    node = NamespaceMode.NODE
    assert sysctls.own_namespaces(NamespaceOptions()) == ALL
    assert sysctls.own_namespaces(NamespaceOptions(network=node)) == {"ipc"}
    assert sysctls.own_namespaces(NamespaceOptions(network=node, ipc=node)) == frozenset()


def test_each_namespace_has_its_own() -> None:
    both = {"net.core.somaxconn": "1", "kernel.shmmax": "2"}
    assert sysctls.of("net", both) == {"net.core.somaxconn": "1"}
    assert sysctls.of("ipc", both) == {"kernel.shmmax": "2"}
    assert sysctls.of("uts", both) == {}
