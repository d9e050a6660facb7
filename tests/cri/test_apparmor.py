"""The default AppArmor profile as clients see it: what Status says, and which containers are refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.apparmor import PROFILE, Gap
from ocid.domain.spec.inputs import HostFacts
from ocid.ports.confinement import Confined
from tests.cri.daemon import Daemon, container_config, refused

DEFAULT = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)


class Confinement:
    """Port ``Confinement`` with a gap that the test decides."""

    def __init__(self, gap: Gap | None) -> None:
        self.gap = gap
        self.asked = 0

    async def ensure(self) -> Gap | None:
        self.asked += 1
        return self.gap

    def standing(self) -> Confined:
        problem = "" if self.gap is None else self.gap.reason
        return Confined(enabled=True, profile=PROFILE, mode="" if problem else "enforce", problem=problem)


def with_apparmor(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, gap: Gap | None = None) -> Confinement:
    """Give the daemon's node AppArmor."""
    host, confinement = daemon.core.host, Confinement(gap)
    policy = msgspec.structs.replace(host.settings.spec_policy, apparmor_default=PROFILE)
    object.__setattr__(host.settings, "spec_policy", policy)
    object.__setattr__(host, "confinement", confinement)
    monkeypatch.setattr(host.runtime, "host_facts", lambda: HostFacts(apparmor_enabled=True))
    there = frozenset[str]() if gap is not None else frozenset({PROFILE})
    monkeypatch.setattr(host.files, "apparmor_profiles", lambda: there)
    return confinement


async def create(daemon: Daemon, pod_id: str, name: str, **security: Any) -> str:
    config = container_config(name)
    config.linux.security_context.MergeFrom(pb.LinuxContainerSecurityContext(**security))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)
    return str((await daemon.client.CreateContainer(request)).container_id)


async def profile_of(daemon: Daemon, container_id: str) -> str | None:
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    info = json.loads((await daemon.client.ContainerStatus(request)).info["info"])
    found: str | None = info["runtimeSpec"]["process"].get("apparmorProfile")
    return found


@pytest.fixture
async def pod_id(daemon: Daemon) -> str:
    await daemon.pull()
    return await daemon.run_pod()


async def test_it_applies_to_all_that_do_not_opt_out(
    daemon: Daemon, pod_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    confinement = with_apparmor(daemon, monkeypatch)
    for name, security in (
        ("unset", {}),
        ("new", {"apparmor": DEFAULT}),
        ("old", {"apparmor_profile": "runtime/default"}),
    ):
        assert await profile_of(daemon, await create(daemon, pod_id, name, **security)) == PROFILE
    assert confinement.asked == 3
    assert await profile_of(daemon, await create(daemon, pod_id, "out", apparmor_profile="unconfined")) is None
    assert confinement.asked == 3, "nothing has to be loaded for it"
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    assert status.status.conditions[0].message == "a warning"
    found = json.loads(status.info["apparmor"])
    assert found == {"enabled": True, "profile": PROFILE, "mode": "enforce", "problem": ""}


async def test_containers_are_refused_while_it_cannot_be_loaded(
    daemon: Daemon, pod_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    confinement = with_apparmor(daemon, monkeypatch, Gap(reason="syntax error"))
    words = "container c: apparmor profile 'ocid-default' is not in force: syntax error"
    for security in ({}, {"apparmor": DEFAULT}):
        with refused(Status.UNKNOWN, words):
            await create(daemon, pod_id, "c", **security)
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    assert status.status.conditions[0].status, "containers that are not confined can run"
    assert status.status.conditions[0].message == "a warning; apparmor: syntax error"
    assert json.loads(status.info["apparmor"])["problem"] == "syntax error"
    confinement.gap = None
    monkeypatch.setattr(daemon.core.host.files, "apparmor_profiles", lambda: frozenset({PROFILE}))
    assert await profile_of(daemon, await create(daemon, pod_id, "c")) == PROFILE


async def test_where_there_is_no_parser_only_those_are_refused_that_ask_for_it(
    daemon: Daemon, pod_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_apparmor(daemon, monkeypatch, Gap(reason="no parser", tool_missing=True))
    assert await profile_of(daemon, await create(daemon, pod_id, "unset")) is None
    with refused(Status.UNKNOWN, "is not in force: no parser"):
        await create(daemon, pod_id, "asks", apparmor=DEFAULT)


async def test_a_node_without_apparmor_says_so(daemon: Daemon) -> None:
    status = await daemon.client.Status(pb.StatusRequest(verbose=True))
    found = json.loads(status.info["apparmor"])
    assert found == {"enabled": False, "profile": "", "mode": "", "problem": ""}
