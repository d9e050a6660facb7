"""The service with plugins in Python at the other end of streams, and a made-up node."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from ocid.domain.nri import (
    Change,
    ContainerFacts,
    ContainerState,
    Event,
    Eviction,
    PodFacts,
    Resources,
    Update,
    Updated,
)
from ocid.errors import AlreadyExists, EffectFailed, InvalidRequest, NotFound, OcidError, Unsupported, WrongState
from ocid.nri import mux, ttrpc
from ocid.nri.service import NriPlugins
from ocid.nri.settings import NriSettings, read_config
from ocid.nri.stubs import nri_pb2 as pb
from ocid.ports.plugins import Inventory
from tests.nri.plugin import Refusal, TestPlugin

POD = PodFacts(
    pod_id="p1", name="web", uid="u1", namespace="prod", labels={"a": "b"}, cgroup_parent="/pods", ips=("10.0.0.2",)
)
SPEC: dict[str, Any] = {
    "process": {"env": ["A=1"], "args": ["sh"], "user": {"uid": 5, "gid": 6}, "oomScoreAdj": 9},
    "annotations": {"k": "v"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["ro"]}],
    "linux": {"cgroupsPath": "/pods/c1", "resources": {"memory": {"limit": 77}}, "namespaces": [{"type": "mount"}]},
}
CONTAINER = ContainerFacts(container_id="c1", pod_id="p1", name="app", spec=SPEC)


class FakeNode:
    """Port ``Node``."""

    def __init__(self) -> None:
        self.living = Inventory()
        self.updates: list[Update] = []
        self.evictions: list[Eviction] = []
        self.waited: list[bool] = []
        self.log: list[tuple[str, ...]] = []
        self.error: OcidError | None = None

    def inventory(self) -> Inventory:
        return self.living

    async def update(self, update: Update, *, wait: bool) -> None:
        if self.error is not None:
            raise self.error
        self.updates.append(update)
        self.waited.append(wait)

    async def evict(self, eviction: Eviction, *, wait: bool) -> None:
        if self.error is not None:
            raise self.error
        self.evictions.append(eviction)
        self.waited.append(wait)

    async def joined(self, plugin: str, pid: int, events: int) -> None:
        self.log.append(("joined", plugin))

    async def left(self, plugin: str, reason: str) -> None:
        self.log.append(("left", plugin, reason))


class Stage:
    """The service, its node, and a way to bring plugins in."""

    def __init__(self, plugins: NriPlugins, node: FakeNode, nursery: trio.Nursery) -> None:
        self.plugins, self.node, self._nursery = plugins, node, nursery

    async def enter(self, plugin: TestPlugin, **options: Any) -> TestPlugin:
        """Connect a plugin; return when it is taken in, or never will be."""
        theirs = self.connect(plugin, **options)
        await theirs.wait()
        return plugin

    def connect(self, plugin: TestPlugin, *, register: bool = True) -> trio.Event:
        ours, theirs = trio.testing.memory_stream_pair()
        done = trio.Event()

        async def welcome() -> None:
            await self._nursery.start(self._welcome, ours)
            done.set()

        self._nursery.start_soon(welcome)
        self._nursery.start_soon(lambda: plugin.run(theirs, register=register))
        return done

    async def _welcome(self, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[None]) -> None:
        await self.plugins.welcome(stream, self.node, pid=7, task_status=task_status)


@asynccontextmanager
async def staged(config_dir: Path = Path("/nonexistent"), *, opened: bool = True) -> AsyncIterator[Stage]:
    plugins = NriPlugins(NriSettings(socket=Path("/x"), plugin_dir=Path("/y"), config_dir=config_dir))
    if opened:
        plugins.opened()
    async with trio.open_nursery() as nursery:
        yield Stage(plugins, FakeNode(), nursery)
        nursery.cancel_scope.cancel()


def adjusting(**fields: Any) -> Callable[[Any], pb.CreateContainerResponse]:
    return lambda request: pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(**fields))


def env(key: str, value: str) -> Callable[[Any], pb.CreateContainerResponse]:
    return adjusting(env=[pb.KeyValue(key=key, value=value)])


async def test_a_plugin_is_welcomed_configured_and_told_what_lives(tmp_path: Path, autojump_clock: object) -> None:
    (tmp_path / "10-one.conf").write_text("level: 3")
    async with staged(tmp_path) as stage:
        stage.node.living = Inventory(pods=(POD,), containers=(CONTAINER,))
        one = await stage.enter(TestPlugin("one"))

        configure, synchronize = one.message("Configure"), one.message("Synchronize")
        assert (configure.config, configure.runtime_name) == ("level: 3", "ocid")
        assert (configure.registration_timeout, configure.request_timeout) == (5000, 2000)
        assert [pod.id for pod in synchronize.pods] == ["p1"]
        assert [container.id for container in synchronize.containers] == ["c1"]
        assert not synchronize.more
        assert stage.node.log == [("joined", "10-one")]


async def test_a_pod_and_a_container_are_told_as_they_are(autojump_clock: object) -> None:
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one"))
        await stage.plugins.tell(Event.RUN_POD_SANDBOX, POD)
        running = msgspec.structs.replace(CONTAINER, state=ContainerState.RUNNING, pid=9, started_at_ns=5)
        await stage.plugins.tell(Event.START_CONTAINER, POD, running)

        pod = one.message("RunPodSandbox").pod
        assert (pod.id, pod.name, pod.namespace, pod.uid, list(pod.ips)) == ("p1", "web", "prod", "u1", ["10.0.0.2"])
        assert pod.linux.cgroup_parent == "/pods"
        told = one.message("StartContainer").container
        assert (told.id, told.name, told.pod_sandbox_id, told.state, told.pid) == ("c1", "app", "p1", 3, 9)
        assert (list(told.args), list(told.env), dict(told.annotations)) == (["sh"], ["A=1"], {"k": "v"})
        assert (told.user.uid, told.user.gid, told.linux.oom_score_adj.value) == (5, 6, 9)
        assert told.linux.resources.memory.limit.value == 77
        assert not told.linux.resources.memory.HasField("swap")
        assert told.mounts[0].options == ["ro"]
        assert told.linux.cgroups_path == "/pods/c1"


async def test_only_what_is_subscribed_to_is_told(autojump_clock: object) -> None:
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one", events=Event.STOP_POD_SANDBOX.bit))

        assert stage.plugins.wants(Event.STOP_POD_SANDBOX)
        assert not stage.plugins.wants(Event.START_CONTAINER)
        for event in (Event.RUN_POD_SANDBOX, Event.STOP_POD_SANDBOX, Event.REMOVE_POD_SANDBOX):
            await stage.plugins.tell(event, POD)
        await stage.plugins.adjust(POD, CONTAINER)
        assert one.heard == ["StopPodSandbox"]


async def test_plugins_are_asked_in_the_order_of_their_indexes_and_see_what_went_before(autojump_clock: object) -> None:
    async with staged() as stage:
        late = await stage.enter(TestPlugin("late", "90", CreateContainer=env("LATE", "1")))
        await stage.enter(TestPlugin("early", "05", CreateContainer=env("EARLY", "1")))
        made = await stage.plugins.adjust(POD, CONTAINER)

        assert made.spec["process"]["env"] == ["A=1", "EARLY=1", "LATE=1"]
        assert [(one.plugin, one.key) for one in made.changes] == [("05-early", "EARLY"), ("90-late", "LATE")]
        assert list(late.message("CreateContainer").container.env) == ["A=1", "EARLY=1"]
        assert SPEC["process"]["env"] == ["A=1"]


async def test_two_plugins_that_want_the_same_are_named(autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin("one", "10", CreateContainer=env("X", "1")))
        await stage.enter(TestPlugin("two", "20", CreateContainer=env("X", "2")))

        with pytest.raises(AlreadyExists, match="env 'X' is set by plugin 10-one and by plugin 20-two"):
            await stage.plugins.adjust(POD, CONTAINER)


async def test_an_error_of_a_plugin_is_the_requests_and_the_plugin_stays(autojump_clock: object) -> None:
    def refuse(request: Any) -> Any:
        raise Refusal("not on my node")

    async with staged() as stage:
        one = await stage.enter(TestPlugin("one", CreateContainer=refuse, RunPodSandbox=refuse))
        with pytest.raises(EffectFailed, match="plugin 10-one refuses CreateContainer: not on my node"):
            await stage.plugins.adjust(POD, CONTAINER)
        with pytest.raises(EffectFailed, match="refuses RunPodSandbox"):
            await stage.plugins.tell(Event.RUN_POD_SANDBOX, POD)
        await stage.plugins.tell(Event.STOP_POD_SANDBOX, POD)
        assert one.heard[-1] == "StopPodSandbox"


async def test_a_plugin_that_does_not_answer_is_cut_off_and_the_work_goes_on(autojump_clock: object) -> None:
    async def sleep(request: Any) -> Any:
        await trio.sleep_forever()

    async with staged() as stage:
        await stage.enter(TestPlugin("slow", "10", CreateContainer=sleep))
        await stage.enter(TestPlugin("two", "20", CreateContainer=env("X", "2")))
        began = trio.current_time()
        made = await stage.plugins.adjust(POD, CONTAINER)

        assert trio.current_time() - began == pytest.approx(2)
        assert made.spec["process"]["env"] == ["A=1", "X=2"]
        await trio.testing.wait_all_tasks_blocked()
        assert stage.node.log[-1] == ("left", "10-slow", "no answer to CreateContainer in 2 s")


async def test_one_that_hangs_up_is_forgotten(autojump_clock: object) -> None:
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one"))
        await one.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert stage.node.log[-1] == ("left", "10-one", "the plugin hung up")
        assert not stage.plugins.wants(Event.RUN_POD_SANDBOX)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack(">II", 2, 10) + b"\xff" * 10,
        mux.frames_of(mux.RUNTIME, ttrpc.HEADER.pack(3, 2, 1, 0) + b"abc"),  # an even number
        mux.frames_of(mux.RUNTIME, ttrpc.HEADER.pack(0, 1, 3, 0)),  # data without a stream
        mux.frames_of(mux.PLUGIN, ttrpc.request(1, "s", "m", b"", 1)),  # a call where answers belong
        mux.frames_of(mux.RUNTIME, ttrpc.HEADER.pack(3, 9, 1, 0) + b"\xff\xff\xff"),
    ],
)
async def test_what_a_plugin_sends_costs_at_most_its_own_connection(data: bytes, autojump_clock: object) -> None:
    async with staged() as stage:
        bad = await stage.enter(TestPlugin("bad"))
        good = await stage.enter(TestPlugin("good", "20"))
        await bad.stream.send_all(data)
        await trio.testing.wait_all_tasks_blocked()
        await stage.plugins.tell(Event.RUN_POD_SANDBOX, POD)

        assert stage.node.log[-1][:2] == ("left", "10-bad")
        assert good.heard == ["RunPodSandbox"]


@pytest.mark.parametrize(("index", "name"), [("1", "x"), ("ab", "x"), ("10", ""), ("10", "a/b"), ("10", "x" * 65)])
async def test_names_that_are_none_are_turned_away(index: str, name: str, autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin(name, index))

        assert stage.node.log == []
        assert not stage.plugins.wants(Event.RUN_POD_SANDBOX)


async def test_one_that_never_registers_is_cut_off(autojump_clock: object) -> None:
    async with staged() as stage:
        began = trio.current_time()
        await stage.enter(TestPlugin("one"), register=False)

        assert trio.current_time() - began == pytest.approx(5)
        assert stage.node.log == []


async def test_events_that_do_not_exist_are_refused(autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin("one", events=1 << 20))

        assert stage.node.log == []


async def test_a_large_node_is_told_in_parts(autojump_clock: object) -> None:
    many = tuple(
        msgspec.structs.replace(CONTAINER, container_id=f"c{number}", labels={"big": "x" * 300_000})
        for number in range(12)
    )
    async with staged() as stage:
        stage.node.living = Inventory(pods=(POD,), containers=many)
        one = await stage.enter(TestPlugin("one"))

        parts = [message for name, message in one.calls if name == "Synchronize"]
        assert len(parts) > 3
        assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
        assert [told.id for part in parts for told in part.containers] == [f"c{number}" for number in range(12)]
        assert stage.node.log == [("joined", "10-one")]


async def test_one_that_takes_parts_too_slowly_holds_nobody_up_for_long(autojump_clock: object) -> None:
    async def slowly(request: Any) -> pb.SynchronizeResponse:
        await trio.sleep(1.5)
        return pb.SynchronizeResponse(more=request.more)

    many = tuple(msgspec.structs.replace(CONTAINER, labels={"big": "x" * 900_000}) for _ in range(9))
    async with staged() as stage:
        stage.node.living = Inventory(containers=many)
        began = trio.current_time()
        await stage.enter(TestPlugin("one", Synchronize=slowly))

        assert trio.current_time() - began == pytest.approx(5)
        assert stage.node.log == []
        assert (await stage.plugins.adjust(POD, CONTAINER)).changes == ()


async def test_one_that_cannot_take_parts_is_turned_away(autojump_clock: object) -> None:
    many = tuple(msgspec.structs.replace(CONTAINER, labels={"big": "x" * 900_000}) for _ in range(3))
    async with staged() as stage:
        stage.node.living = Inventory(containers=many)
        await stage.enter(TestPlugin("one", Synchronize=lambda request: pb.SynchronizeResponse()))

        assert stage.node.log == []


async def test_a_container_that_is_being_made_is_never_lost_to_a_plugin_that_comes(autojump_clock: object) -> None:
    """It is asked about by those that are there, and then in what the new one is synchronized with."""

    async def slowly(request: Any) -> pb.CreateContainerResponse:
        await trio.sleep(1)
        return pb.CreateContainerResponse()

    async with staged() as stage, trio.open_nursery() as nursery:
        await stage.enter(TestPlugin("one", CreateContainer=slowly))
        nursery.start_soon(stage.plugins.adjust, POD, CONTAINER)
        await trio.sleep(0.5)
        two = await stage.enter(TestPlugin("two", "20"))

        assert [told.id for told in two.message("Synchronize").containers] == ["c1"]
        assert "CreateContainer" not in two.heard
        assert stage.plugins.settled("c1")
        assert not stage.plugins.settled("c1")
        three = await stage.enter(TestPlugin("three", "30"))
        assert list(three.message("Synchronize").containers) == []


async def test_a_container_made_while_one_comes_waits_for_it(autojump_clock: object) -> None:
    async def slowly(request: Any) -> pb.SynchronizeResponse:
        await trio.sleep(1)
        return pb.SynchronizeResponse()

    async with staged() as stage:
        one = TestPlugin("one", Synchronize=slowly)
        stage.connect(one)
        await trio.sleep(0.5)
        await stage.plugins.adjust(POD, CONTAINER)

        assert one.heard[0] == "CreateContainer"


async def test_nothing_is_made_before_the_daemons_own_plugins_are_there(autojump_clock: object) -> None:
    async with staged(opened=False) as stage:
        with trio.move_on_after(3) as limit:
            await stage.plugins.adjust(POD, CONTAINER)
        assert limit.cancelled_caught
        stage.plugins.opened()
        assert (await stage.plugins.adjust(POD, CONTAINER)).changes == ()


async def test_a_judge_sees_who_set_what_and_may_reject_it(autojump_clock: object) -> None:
    verdicts = [
        pb.ValidateContainerAdjustmentResponse(),
        pb.ValidateContainerAdjustmentResponse(reject=True, reason="no"),
    ]
    async with staged() as stage:
        await stage.enter(TestPlugin("one", CreateContainer=env("X", "1")))
        bit = Event.VALIDATE_CONTAINER_ADJUSTMENT.bit
        judge = await stage.enter(
            TestPlugin("judge", "90", bit, ValidateContainerAdjustment=lambda request: verdicts.pop(0))
        )
        await stage.plugins.adjust(POD, CONTAINER)
        with pytest.raises(EffectFailed, match=r"plugin 90-judge rejects .*: no"):
            await stage.plugins.adjust(POD, CONTAINER)

        request = judge.message("ValidateContainerAdjustment")
        assert list(request.container.env) == ["A=1"], "as it was before"
        assert request.adjust.env[0].key == "X"
        assert dict(request.owners.owners["c1"].compound[pb.Env].owners) == {"X": "10-one"}
        assert [(one.index, one.name) for one in request.plugins] == [("10", "one")]


async def test_updates_of_others_are_carried_out_and_a_failure_is_not_the_containers(autojump_clock: object) -> None:
    update = pb.ContainerUpdate(
        container_id="c0", linux={"resources": {"cpu": {"shares": {"value": 5}}}}
    )  # fmt: skip
    expected = Update(container_id="c0", resources=Resources(cpu_shares=5), plugins=("10-one",))
    async with staged() as stage:
        await stage.enter(
            TestPlugin(
                "one",
                CreateContainer=lambda request: pb.CreateContainerResponse(update=[update]),
                StopContainer=lambda request: pb.StopContainerResponse(update=[update]),
            )
        )
        await stage.plugins.adjust(POD, CONTAINER)
        await stage.plugins.tell(Event.STOP_CONTAINER, POD, CONTAINER)
        assert stage.node.updates == [expected] * 2
        assert stage.node.waited == [True, False], "what lives waits for nobody who lives"
        stage.node.error = NotFound("container", "c0")
        await stage.plugins.adjust(POD, CONTAINER)


async def test_what_a_plugin_makes_of_an_update_takes_its_place(autojump_clock: object) -> None:
    def answer(request: Any) -> pb.UpdateContainerResponse:
        assert request.linux_resources.cpu.shares.value == 2
        mine = pb.ContainerUpdate(container_id="c1", linux={"resources": {"cpu": {"shares": {"value": 8}}}})
        other = pb.ContainerUpdate(container_id="c2", linux={"resources": {"cpu": {"cpus": "1"}}})
        return pb.UpdateContainerResponse(update=[mine, other])

    async with staged() as stage:
        wanted = Resources(cpu_shares=2, memory_limit=7)
        assert await stage.plugins.update(POD, CONTAINER, wanted) == Updated(resources=wanted)
        await stage.enter(TestPlugin("one", UpdateContainer=answer))
        made = await stage.plugins.update(POD, CONTAINER, wanted)
        assert made.resources == Resources(cpu_shares=8, memory_limit=7), "what it says nothing of stays"
        assert made.changes == (Change(plugin="10-one", field="cpu shares"),)
        expected = Update(container_id="c2", resources=Resources(cpu_cpus="1"), plugins=("10-one",))
        assert stage.node.updates == [expected]


async def test_a_plugin_may_ask_for_updates_by_itself(autojump_clock: object) -> None:
    request = pb.UpdateContainersRequest(
        update=[
            pb.ContainerUpdate(container_id="c1", linux={"resources": {"pids": {"limit": 5}}}),
            pb.ContainerUpdate(container_id="c2", ignore_failure=True),
        ]
    )
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one"))
        answer = await one.call("UpdateContainers", request)
        assert not pb.UpdateContainersResponse.FromString(answer.payload).failed
        assert [update.container_id for update in stage.node.updates] == ["c1", "c2"]
        stage.node.error = Unsupported("not today")
        answer = await one.call("UpdateContainers", request)
        failed = pb.UpdateContainersResponse.FromString(answer.payload).failed
        assert [update.container_id for update in failed] == ["c1"]
        assert (await one.call("Nonsense", pb.Empty())).status.code == 12


async def test_plugins_may_have_containers_ended(autojump_clock: object) -> None:
    evict = [pb.ContainerEviction(container_id="c0", reason="noisy")]
    answers = {
        "CreateContainer": lambda request: pb.CreateContainerResponse(evict=evict),
        "UpdateContainer": lambda request: pb.UpdateContainerResponse(evict=evict),
    }
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one", **answers))
        await stage.plugins.adjust(POD, CONTAINER)
        await stage.plugins.update(POD, CONTAINER, Resources(cpu_shares=2))
        answer = await one.call("UpdateContainers", pb.UpdateContainersRequest(evict=evict))
        assert not answer.status.code
        assert stage.node.evictions == [Eviction(container_id="c0", reason="noisy", plugin="10-one")] * 3
        assert stage.node.waited == [True, False, True]
        stage.node.error = WrongState("container", "c0", wants="created", is_now="preparing")
        await stage.plugins.adjust(POD, CONTAINER)


async def test_one_that_is_not_taken_in_yet_changes_nothing(autojump_clock: object) -> None:
    async with staged() as stage:
        one = TestPlugin("one")
        answers = []

        async def too_early(request: Any) -> pb.SynchronizeResponse:
            answers.append(await one.call("UpdateContainers", pb.UpdateContainersRequest()))
            return pb.SynchronizeResponse()

        one.answers["Synchronize"] = too_early
        await stage.enter(one)
        assert "is new, not synchronized" in answers[0].status.message


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"linux": {"cgroups_path": "/x"}}, "cgroup '/x'"),
        ({"linux": {"io_priority": {"class": 9}}}, "I/O priority class 9"),
        ({"linux": {"scheduler": {"policy": 99}}}, "scheduler policy 99"),
        ({"linux": {"scheduler": {"policy": 1, "flags": [77]}}}, "an unknown scheduler flag"),
        ({"linux": {"memory_policy": {}}}, "memory policy"),
        ({"linux": {"net_devices": {"eth0": {}}}}, "network devices"),
        ({"linux": {"resources": {"blockio_class": {"value": "x"}}}}, "block I/O class"),
    ],
)
async def test_what_this_build_cannot_do_is_refused(fields: Any, what: str, autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin("one", CreateContainer=adjusting(**fields)))
        with pytest.raises(Unsupported, match=what):
            await stage.plugins.adjust(POD, CONTAINER)


@pytest.mark.parametrize(
    ("linux", "field", "expected"),
    [
        ({"io_priority": {}}, "ioPriority", None),
        ({"scheduler": {}}, "scheduler", None),
        ({"resources": {"rdt_class": {"value": "x"}}}, "intelRdt", {"closID": "x"}),
        ({"rdt": {}}, "intelRdt", None),
        ({"rdt": {"remove": True}, "resources": {"rdt_class": {"value": "x"}}}, "intelRdt", {"closID": "x"}),
    ],
)
async def test_classes_and_priorities(linux: Any, field: str, expected: Any, autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin("one", CreateContainer=adjusting(linux=linux)))
        spec: Any = (await stage.plugins.adjust(POD, CONTAINER)).spec
        assert spec["linux" if field == "intelRdt" else "process"].get(field) == expected


EVERY_FIELD: dict[str, Any] = {
    "annotations": {"n": "1"},
    "mounts": [{"destination": "/m", "type": "bind", "source": "/s", "options": ["ro"]}],
    "hooks": {"create_runtime": [{"path": "/h", "args": ["h"], "env": ["E=1"], "timeout": {"value": 4}}]},
    "rlimits": [{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}],
    "args": ["x", "y"],
    "CDI_devices": [{"name": "v/c=0"}],
    "linux": {
        "io_priority": {"class": pb.IOPRIO_CLASS_BE, "priority": 3},
        "scheduler": {"policy": pb.SCHED_BATCH, "nice": 4, "flags": [pb.SCHED_FLAG_RESET_ON_FORK]},
        "rdt": {"clos_id": {"value": "gold"}, "schemata": {"value": ["L3:0=f"]}},
        "devices": [{"path": "/dev/d", "type": "c", "major": 1, "minor": 3, "file_mode": {"value": 438}}],
        "oom_score_adj": {"value": 5},
        "namespaces": [{"type": "pid", "path": "/p"}],
        "sysctl": {"kernel.x": "1"},
        "seccomp_policy": {
            "default_action": "SCMP_ACT_ERRNO",
            "default_errno": {"value": 1},
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "errno_ret": {"value": 2},
                    "args": [{"op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "resources": {
            "memory": {"limit": {"value": 8}, "disable_oom_killer": {"value": True}},
            "hugepage_limits": [{"page_size": "2MB", "limit": 3}],
            "pids": {"limit": 4},
            "devices": [{"allow": True, "type": "c", "major": {"value": 1}, "access": "r"}],
        },
    },
}


async def test_every_field_of_an_adjustment_arrives(autojump_clock: object) -> None:
    async with staged() as stage:
        await stage.enter(TestPlugin("one", CreateContainer=adjusting(**EVERY_FIELD)))
        judge = await stage.enter(TestPlugin("judge", "90", Event.VALIDATE_CONTAINER_ADJUSTMENT.bit))
        listener = await stage.enter(TestPlugin("told", "91", Event.START_CONTAINER.bit))
        made = await stage.plugins.adjust(POD, CONTAINER)
        spec: Any = made.spec

        assert made.cdi_devices == ("v/c=0",)
        assert spec["process"]["ioPriority"] == {"class": "IOPRIO_CLASS_BE", "priority": 3}
        scheduler = {"policy": "SCHED_BATCH", "nice": 4, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
        assert spec["process"]["scheduler"] == scheduler
        assert spec["linux"]["intelRdt"] == {"closID": "gold", "schemata": ["L3:0=f"]}
        assert spec["annotations"] == {"k": "v", "n": "1"}
        assert spec["mounts"][-1] == {"destination": "/m", "type": "bind", "source": "/s", "options": ["ro"]}
        assert spec["hooks"] == {"createRuntime": [{"path": "/h", "args": ["h"], "env": ["E=1"], "timeout": 4}]}
        assert spec["process"]["rlimits"] == [{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}]
        assert (spec["process"]["args"], spec["process"]["oomScoreAdj"]) == (["x", "y"], 5)
        linux = spec["linux"]
        assert linux["devices"] == [{"path": "/dev/d", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]
        assert linux["namespaces"][-1] == {"type": "pid", "path": "/p"}
        assert linux["sysctl"] == {"kernel.x": "1"}
        assert linux["seccomp"] == {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "errnoRet": 2,
                    "args": [{"index": 0, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
                }
            ],
        }
        assert linux["resources"]["memory"] == {"limit": 8, "disableOOMKiller": True}
        assert linux["resources"]["pids"] == {"limit": 4}
        judged = judge.message("ValidateContainerAdjustment").adjust
        wanted = pb.ContainerAdjustment(**EVERY_FIELD)
        assert judged.linux.devices == wanted.linux.devices
        assert judged.CDI_devices == wanted.CDI_devices
        for field in ("io_priority", "scheduler", "rdt"):
            assert getattr(judged.linux, field) == getattr(wanted.linux, field)
        await stage.plugins.tell(Event.START_CONTAINER, POD, msgspec.structs.replace(CONTAINER, spec=spec))
        told = listener.message("StartContainer").container.linux
        assert (told.io_priority, told.scheduler) == (wanted.linux.io_priority, wanted.linux.scheduler)
        assert told.rdt == wanted.linux.rdt
        assert judged.hooks == wanted.hooks
        assert judged.linux.seccomp_policy == wanted.linux.seccomp_policy


async def test_an_old_plugin_without_a_call_for_an_event_gets_a_state_change(autojump_clock: object) -> None:
    def unknown(request: Any) -> Any:
        raise Refusal("unknown method", code=12)

    async with staged() as stage:
        old = await stage.enter(TestPlugin("old", StartContainer=unknown))
        await stage.plugins.tell(Event.START_CONTAINER, POD, CONTAINER)

        change = old.message("StateChange")
        assert (change.event, change.pod.id, change.container.id) == (pb.START_CONTAINER, "p1", "c1")


async def test_plugins_are_told_when_the_daemon_goes(autojump_clock: object) -> None:
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one"))
        await stage.plugins.take_leave()

        assert one.heard == ["Shutdown"]


def test_a_plugins_configuration_is_found_by_either_name(tmp_path: Path) -> None:
    assert read_config(tmp_path, "10", "one") == ""
    (tmp_path / "one.conf").write_text("general")
    assert read_config(tmp_path, "10", "one") == "general"
    (tmp_path / "10-one.conf").write_text("special")
    assert read_config(tmp_path, "10", "one") == "special"
    (tmp_path / "10-one.conf").write_bytes(b"x" * (1 << 20) + b"x")
    with pytest.raises(OcidError, match="longer than"):
        read_config(tmp_path, "10", "one")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=8), st.booleans())
def test_any_bytes_cost_at_most_the_connection(pieces: list[bytes], framed: bool) -> None:
    """Raw, or as the payload of frames that the plugin may send."""

    async def main() -> None:
        async with staged() as stage:
            bad = await stage.enter(TestPlugin("bad", "10"))
            good = await stage.enter(TestPlugin("good", "20"))
            for number, piece in enumerate(filter(None, pieces)):
                data = mux.frames_of(1 + number % 2, piece) if framed else piece
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await bad.stream.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
            await stage.plugins.tell(Event.RUN_POD_SANDBOX, POD)
            assert good.heard == ["RunPodSandbox"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_number_that_nri_cannot_carry_is_the_containers_trouble(autojump_clock: object) -> None:
    seccomp = {"defaultAction": "x", "defaultErrnoRet": -1}
    odd = msgspec.structs.replace(CONTAINER, spec={**SPEC, "linux": {"seccomp": seccomp}})
    async with staged() as stage:
        await stage.enter(TestPlugin("one"))
        with pytest.raises(InvalidRequest, match="cannot be told to plugins"):
            await stage.plugins.adjust(POD, odd)


async def test_a_container_too_large_to_be_told_is_refused_and_the_plugin_stays(autojump_clock: object) -> None:
    large = msgspec.structs.replace(CONTAINER, labels={"big": "x" * (4 << 20)})
    async with staged() as stage:
        await stage.enter(TestPlugin("one"))
        with pytest.raises(EffectFailed, match="at most 4194304 are allowed"):
            await stage.plugins.adjust(POD, large)
        assert stage.plugins.wants(Event.CREATE_CONTAINER)


async def test_what_is_made_cannot_be_updated_in_the_same_breath(autojump_clock: object) -> None:
    update = pb.ContainerUpdate(container_id="c1")
    async with staged() as stage:
        await stage.enter(TestPlugin("one", CreateContainer=lambda r: pb.CreateContainerResponse(update=[update])))
        with pytest.raises(InvalidRequest, match="10-one wants to update or evict the container that is being made"):
            await stage.plugins.adjust(POD, CONTAINER)


async def test_a_pods_resources_are_told_before_they_change(autojump_clock: object) -> None:
    async with staged() as stage:
        one = await stage.enter(TestPlugin("one"))
        pod = msgspec.structs.replace(POD, resources=Resources(cpu_shares=3), overhead=Resources(memory_limit=4))
        await stage.plugins.tell(Event.UPDATE_POD_SANDBOX, pod)

        told = one.message("UpdatePodSandbox")
        assert told.linux_resources.cpu.shares.value == 3
        assert told.overhead_linux_resources.memory.limit.value == 4
