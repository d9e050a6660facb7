"""Containers by key and by pod, and their configurations."""

from __future__ import annotations

import msgspec

from ocid.domain.configs import ContainerConfig, ContainerMetadata, LinuxContainerConfig, LinuxResources
from ocid.domain.container import Container
from ocid.events import container
from ocid.ids import PodId, digest_of
from ocid.projections.containers import ContainerKey, is_listed, key_of
from tests.fakes.declared import EMPTY, container_declared
from tests.projections.logs import Log

P, X = container.Prepared(spec=EMPTY, uid=0, gid=0), container.RemoveRequested()
E = container.Exited(at_ns=1, exit_code=0, source="monitor")
V, G = container.Released(), container.Removed()
P1 = PodId("p1")


def test_a_key_is_held_until_the_wish_to_remove() -> None:
    log = Log()
    declared = container_declared()
    log.add("container/c1", declared, P, E, V)
    assert log.view.containers.by_key == {ContainerKey(P1, "app", 0): "c1"} == {key_of(declared): "c1"}
    log.add("container/c1", X)
    assert log.view.containers.by_key == {}
    log.add("container/c2", container_declared("c2"))
    log.add("container/c1", G)
    assert log.view.containers.by_key == {key_of(declared): "c2"}


def test_a_pod_has_its_containers_in_order_of_declaration() -> None:
    log = Log()
    for name, attempt in (("c2", 0), ("c1", 1), ("c3", 2)):
        log.add(f"container/{name}", container_declared(name, attempt=attempt, created_at_ns=attempt + 5))
    log.add("container/c9", container_declared("c9", pod_id="p2"))
    containers = log.view.containers
    assert list(containers.by_pod[P1]) == ["c2", "c1", "c3"]
    assert containers.created_after(P1) == 7
    assert containers.created_after(PodId("none")) == 0

    for name in ("c2", "c1", "c3"):
        log.add(f"container/{name}", E, V, X, G)
    assert P1 not in containers.by_pod
    assert set(containers.rows) == {"c9"}


def test_a_configuration_is_read_once_and_forgotten_with_its_container() -> None:
    config = ContainerConfig(metadata=ContainerMetadata(name="app"))
    document = msgspec.json.encode(config)
    log = Log([document])
    log.add("container/c1", container_declared(config=digest_of(document)))
    assert log.view.containers.config("c1") is log.view.containers.config("c1")
    assert log.view.containers.config("c1") == config

    log.add("container/c1", E, V, X, G)
    assert log.view.containers._configs == {}


def test_what_cri_lists() -> None:
    failed = container.PrepareFailed(error="E", message="m")

    assert is_listed(Container(prepared=P))
    assert not is_listed(Container())
    assert not is_listed(Container(prepare_failed=failed))
    assert not is_listed(Container(prepared=P, prepare_failed=failed))


def test_a_config_has_the_limits_that_are_in_force() -> None:
    declared = ContainerConfig(linux=LinuxContainerConfig(resources=LinuxResources(cpu_shares=1)))
    first, second = LinuxResources(cpu_shares=2), LinuxResources(cpu_shares=3, cpuset_cpus="0")
    config, *limits = (msgspec.json.encode(one) for one in (declared, first, second))
    log = Log([config, *limits])
    shares = []
    log.add("container/c1", container_declared(config=digest_of(config)), P)
    shares.append(log.view.containers.config("c1").linux.resources)
    for number, document in enumerate(limits):
        update_id = str(number)
        log.add("container/c1", container.UpdateRequested(update_id=update_id, change=EMPTY))
        shares.append(log.view.containers.config("c1").linux.resources)
        log.add("container/c1", container.Updated(update_id=update_id, limits=digest_of(document)))
    log.add("container/c1", container.UpdateRequested(update_id="9", change=EMPTY))
    log.add("container/c1", container.UpdateRefused(update_id="9", error="EffectFailed", message="no"))
    shares.append(log.view.containers.config("c1").linux.resources)

    assert shares == [declared.linux.resources, declared.linux.resources, first, second]
    assert log.folded().containers.config("c1") == log.restored().containers.config("c1")
    assert log.restored().containers.config("c1").linux.resources == second
