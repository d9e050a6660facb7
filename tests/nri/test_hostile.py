"""Plugins that speak the protocol well and say anything in it: pods and containers see errors of ours, or nothing.

``HYPOTHESIS_PROFILE=long`` tries hard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import Any

import msgspec
import trio
import trio.testing
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings, strategies as st

from ocid.domain.nri import Event, Resources
from ocid.errors import OcidError
from ocid.nri import mux, ttrpc
from ocid.nri.stubs import nri_pb2 as pb
from ocid.ports.plugins import Inventory
from tests.cri.fuzzing import noise, resolved
from tests.nri.plugin import Refusal, TestPlugin
from tests.nri.test_service import CONTAINER, POD, Stage, staged

IDS = {"@running": "c1", "@created": "c2", "@pod": "p1"}  # what noise names by markers
OTHER = msgspec.structs.replace(CONTAINER, container_id="c2", name="other")
METHODS = {one.name: one for one in pb.DESCRIPTOR.services_by_name["Plugin"].methods}
ASKED = ("Configure", "Synchronize", "CreateContainer", "UpdateContainer", "StopContainer",
         "ValidateContainerAdjustment", "RunPodSandbox")  # fmt: skip
RUNTIME = {one.name: one.input_type for one in pb.DESCRIPTOR.services_by_name["Runtime"].methods}
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


def said_by(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages that fit into one of ttrpc."""
    return noise(descriptor).filter(lambda message: message.ByteSize() < ttrpc.MESSAGE_BYTES_MAX // 8)


answers = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(said_by(METHODS[name].output_type), st.builds(Refusal, st.text(), st.integers(0, 2**31 - 1)))
        for name in ASKED
    },
)
adjustments = st.builds(
    lambda parts: [pb.CreateContainerResponse(adjust=one) for one in parts],
    st.lists(said_by(pb.ContainerAdjustment.DESCRIPTOR), min_size=1, max_size=4),
)


def saying(said: dict[str, Any]) -> dict[str, Any]:
    """Turn what is to be said into a plugin's answers."""

    def answer(what: Any) -> Any:
        def reply(_: Any) -> Message:
            if isinstance(what, Refusal):
                raise what
            return resolved(what, IDS)

        return reply

    return {name: answer(what) for name, what in said.items()}


async def foreseen(work: Awaitable[Any]) -> None:
    """Do something; it may fail as everything may."""
    with contextlib.suppress(OcidError):
        await work


async def one_life(stage: Stage) -> None:
    """What happens to a pod and a container, from the first to the last."""
    plugins = stage.plugins
    running = msgspec.structs.replace(CONTAINER, pid=9, started_at_ns=5)
    await foreseen(plugins.tell(Event.RUN_POD_SANDBOX, POD))
    await foreseen(plugins.adjust(POD, CONTAINER))
    await foreseen(plugins.tell(Event.START_CONTAINER, POD, running))
    await foreseen(plugins.update(POD, running, Resources()))
    await foreseen(plugins.tell(Event.STOP_CONTAINER, POD, running))
    await foreseen(plugins.tell(Event.REMOVE_POD_SANDBOX, POD))


@SETTINGS
@given(answers, answers)
def test_any_answers_are_taken_or_refused(first: dict[str, Any], second: dict[str, Any]) -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.node.living = Inventory(pods=(POD,), containers=(OTHER,))
            await stage.enter(TestPlugin("first", "10", **saying(first)))
            await stage.enter(TestPlugin("second", "20", **saying(second)))
            good = await stage.enter(TestPlugin("good", "99"))
            await one_life(stage)
            assert good.heard[0] == "RunPodSandbox" or "RunPodSandbox" in {**first, **second}
            await stage.plugins.tell(Event.POST_START_CONTAINER, POD, OTHER)
            assert good.heard[-1] == "PostStartContainer"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@SETTINGS
@given(adjustments)
def test_any_adjustments_are_made_or_refused(said: list[pb.CreateContainerResponse]) -> None:
    """Several plugins, each with a change of its own: what comes of them is a specification that can be written."""

    async def main() -> None:
        async with staged() as stage:
            for number, one in enumerate(said):
                await stage.enter(TestPlugin("p", f"{number:02}", CreateContainer=lambda _, one=one: one))
            try:
                made = await stage.plugins.adjust(POD, CONTAINER)
            except OcidError:
                return
            assert msgspec.json.decode(msgspec.json.encode(made.spec)) == made.spec
            assert {change.plugin for change in made.changes} <= {f"{number:02}-p" for number in range(len(said))}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


calls = st.sampled_from(list(RUNTIME)).flatmap(lambda name: st.tuples(st.just(name), said_by(RUNTIME[name])))


@SETTINGS
@given(st.lists(calls, max_size=6), st.text(max_size=20), st.text(max_size=20), st.binary(max_size=50))
def test_any_calls_are_answered(said: list[tuple[str, Message]], service: str, method: str, payload: bytes) -> None:
    async def main() -> None:
        async with staged() as stage:
            plugin = await stage.enter(TestPlugin("one"))
            for name, message in said:
                reply = await plugin.call(name, resolved(message, IDS))
                assert reply.status.code in (ttrpc.OK, *ttrpc.Code.__members__.values())
            data = ttrpc.request(1001, service, method, payload, 1)
            await plugin.stream.send_all(mux.frames_of(mux.RUNTIME, data))
            await trio.testing.wait_all_tasks_blocked()
            assert plugin.runtime[1001].status.code == ttrpc.Code.UNIMPLEMENTED
            await one_life(stage)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
