"""Commands that their clients repeat: what is written of them, when, and what is only counted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio

from ocid.actors import probes, repeating
from ocid.actors.core import Core
from ocid.actors.execution import Job
from ocid.actors.supervisor import CRASHES_MAX
from ocid.errors import EffectFailed, OcidError, Unavailable, WrongState
from ocid.events import exec as events
from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.events.node import ActorCrashed
from ocid.ids import ContainerId, ExecId
from ocid.ports import ExecResult
from tests.fakes.declared import exec_requested
from tests.fakes.invariants import check, log_of
from tests.fakes.kubelet import Kubelet, container_config, pod_config
from tests.fakes.life import Moment
from tests.fakes.node import Node, simulate
from tests.simulation.scenarios import image_of

OK = ("run:0.1",)
NO = ("run:0.1", "code:1")
Body = Callable[["Prober"], Awaitable[None]]


class Prober:
    """A client of a node with one running container, and its probe, whose outcome is that of ``mood``."""

    def __init__(self, node: Node, kubelet: Kubelet, container: ContainerId) -> None:
        self.node = node
        self.kubelet = kubelet
        self.container = container
        self.mood(OK)

    def mood(self, words: tuple[str, ...]) -> None:
        self.node.world.moods["probe"] = words

    async def __call__(
        self, *argv: str, who: int = 7, timeout_s: float | None = 5, container: ContainerId | None = None
    ) -> ExecResult:
        _, core = await self.node.serving()
        container_id = container or self.container

        def describe(exec_id: ExecId, repeats: ExecId) -> tuple[events.Requested, bytes]:
            return exec_requested(exec_id, container_id=container_id, repeats=repeats), b"{}"

        job, context = Job(argv or ("probe",), timeout_s), Context(who=who, correlation=f"of {who}")
        return await core.exec_effects.probes.run(container_id, job, describe, context)

    async def times(self, count: int, *argv: str, **fields: Any) -> None:
        for _ in range(count):
            await self(*argv, **fields)

    def log(self, *kinds: type[Event]) -> list[Envelope]:
        wanted = kinds or (Event,)
        return [one for one in log_of(self.node) if one.stream.startswith("exec/") and isinstance(one.event, wanted)]

    def types(self) -> list[str]:
        return [one.type.removeprefix("exec.") for one in self.log()]

    def counts(self) -> list[tuple[int, int]]:
        """Return the counts that are written, each with its exit code."""
        return [(one.event.count, one.event.exit_code) for one in self.log(events.Repeated)]  # type: ignore[attr-defined]

    @property
    def probes(self) -> probes.Probes:
        assert self.node.core is not None
        return self.node.core.exec_effects.probes


def probing(body: Body, **options: Any) -> Node:
    """Run *body* with a prober, check everything, and take all down."""

    async def scenario(node: Node) -> None:
        kubelet = Kubelet(node)
        image = await image_of(node, kubelet)
        pod = await kubelet.run_pod(pod_config())
        one = await kubelet.create(pod, container_config("one", image, "run:100000"))
        await kubelet.start(one)
        await body(Prober(node, kubelet, one))
        await check(node, kubelet)
        await kubelet.eventually(kubelet.remove_pod, pod)
        await trio.sleep(5)
        assert not node.view().execs.rows
        assert not probed(node)
        assert not node.core.exec_effects.probes._watched  # type: ignore[union-attr]
        await check(node, kubelet)

    return simulate(scenario, **options)


def probed(node: Node) -> list[Any]:
    """Return what is kept of open streams, and must not be when there are none."""
    assert node.core is not None
    effects = node.core.exec_effects
    return [
        *effects.jobs,
        *effects.probes._open,
        *effects.probes._by_key,
        *effects.probes._of,
    ]


FIRST = ["requested", "finished", "requested", "finished"]  # the first two runs


def test_the_third_run_and_all_further_ones_cost_no_commit() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(2)
        before = probe.node.disk.commits
        for _ in range(10):
            assert (await probe()).stdout == b"out"
        assert probe.node.disk.commits == before
        assert probe.types() == FIRST
        first, second = probe.log(events.Requested)
        assert isinstance(second.event, events.Requested)
        assert second.event.repeats == first.event.exec_id  # type: ignore[attr-defined]
        assert probe.node.world.starts[second.event.exec_id] == 11, "each call really runs the command"

    probing(body)


def test_the_count_is_written_within_a_minute() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(2)
        began = trio.current_time()
        await probe.times(5)
        while not probe.counts():  # noqa: ASYNC110 (no event tells)
            await trio.sleep(0.5)
        assert trio.current_time() - began <= repeating.FLUSH_S + 1
        (written,) = probe.log(events.Repeated)
        event = written.event
        assert isinstance(event, events.Repeated)
        assert (event.count, event.exit_code, event.stdout_bytes, event.stderr_bytes) == (5, 0, 15, 0)
        assert event.took_ms_min * 5 <= event.took_ms_total <= event.took_ms_max * 5
        assert 100 <= event.took_ms_min <= event.took_ms_max <= 200
        assert 0 < event.until_ns - event.since_ns < 2_000_000_000
        assert event.until_ns < written.wall_ns
        assert written.context.who == 0, "the daemon writes it by itself"
        assert written.context.correlation == "of 7"
        await trio.sleep(120)
        assert len(probe.counts()) == 1, "what did not run is not written"

    probing(body)


def test_the_count_is_written_while_a_run_takes_long() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(4, timeout_s=None)
        probe.mood(("run:500",))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(probe, timeout_s=None))
            await trio.sleep(repeating.FLUSH_S + 1)
            assert probe.counts() == [(2, 0)]

    probing(body)


def test_many_probes_share_their_commits() -> None:
    async def body(probe: Prober) -> None:
        async def one(number: int) -> None:
            await trio.sleep(number / 70)
            await probe.times(5, "run:0.1", f"n:{number}")

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, number)
        before = probe.node.disk.commits
        await trio.sleep(repeating.FLUSH_S + 1)
        assert len(probe.counts()) == 30
        assert probe.node.disk.commits - before <= 4

    probing(body)


def test_an_outcome_that_differs_is_written_after_the_count_of_those_before() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(4)
        for mood in (NO, NO, NO, OK):
            probe.mood(mood)
            await probe(who=7)
        assert probe.types() == [*FIRST, "repeated", "changed", "repeated", "changed"]
        assert probe.counts() == [(2, 0), (2, 1)]
        assert [one.context.who for one in probe.log(events.Changed)] == [7, 7]

    probing(body)


def test_each_run_whose_time_is_up_is_written() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.mood(("run:1000",))
        for _ in range(3):
            assert (await probe()).timed_out
        probe.mood(("run:0.1", "code:137"))  # the same code for another reason
        await probe.times(2)
        assert probe.types() == [*FIRST, "repeated", *["changed"] * 4]
        assert [one.event.timed_out for one in probe.log(events.Changed)] == [True, True, True, False]  # type: ignore[attr-defined]

    probing(body)


@pytest.mark.parametrize(
    "other",
    [
        {"who": 8},
        {"timeout_s": 6},
        {"timeout_s": None},
        {"argv": ("probe", "")},
        {"argv": ("probe", "again")},
        {"argv": ("probeagain",)},
    ],
)
def test_another_client_word_or_limit_is_another_command(other: dict[str, Any]) -> None:
    async def body(probe: Prober) -> None:
        argv = other.pop("argv", ("probe",))
        for _ in range(3):
            await probe()
            await probe(*argv, **other)
        requested = probe.log(events.Requested)
        assert [one.context.who for one in requested].count(7) in (2, 4)
        repeats = [one.event.repeats for one in requested]  # type: ignore[attr-defined]
        ids = [one.event.exec_id for one in requested]  # type: ignore[attr-defined]
        assert repeats == ["", "", ids[0], ids[1]]

    probing(body)


def test_the_same_command_in_two_containers_is_two() -> None:
    async def body(probe: Prober) -> None:
        pod = probe.node.view().containers.rows[probe.container].state.declared
        assert pod is not None
        image = next(iter(probe.node.view().catalog.rows["images"].state.images))
        other = await probe.kubelet.create(pod.pod_id, container_config("two", image, "run:100000"))
        await probe.kubelet.start(other)
        for _ in range(3):
            await probe()
            await probe(container=other)
        assert len(probe.log(events.Requested)) == 4

    probing(body)


def test_one_that_overlaps_has_a_stream_of_its_own() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.mood(("run:2",))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(probe)
        assert probe.types().count("requested") == 4
        await probe()
        assert probe.types().count("requested") == 4, "and afterwards it is counted again"
        await trio.sleep(61)
        assert probe.counts() == [(3, 0)]

    probing(body)


def test_two_second_runs_at_once_open_one_stream() -> None:
    async def body(probe: Prober) -> None:
        await probe()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(probe)
        repeats = [one.event.repeats for one in probe.log(events.Requested)]  # type: ignore[attr-defined]
        assert sum(map(bool, repeats)) == 1

    probing(body)


@pytest.mark.parametrize(("pause_s", "requested"), [(500, 2), (700, 3)])
def test_what_is_rare_does_not_repeat(pause_s: float, requested: int) -> None:
    async def body(probe: Prober) -> None:
        for _ in range(3):
            await probe()
            await trio.sleep(pause_s)
        told = [one.event.repeats for one in probe.log(events.Requested)]  # type: ignore[attr-defined]
        assert len(told) == requested
        assert any(told) == (pause_s < repeating.IDLE_S)
        assert bool(probe.log(events.Repeated)) == (pause_s < repeating.IDLE_S)

    probing(body)


def test_what_nobody_runs_any_more_ends() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        await trio.sleep(repeating.IDLE_S + repeating.FLUSH_S)
        assert probe.types() == [*FIRST, "repeated", "ended"]
        assert probe.log(events.Ended)[0].event == events.Ended(reason="idle")
        assert not probe.node.view().execs.rows
        assert not probed(probe.node)
        await probe()
        assert probe.log(events.Requested)[-1].event.repeats == ""  # type: ignore[attr-defined]

    probing(body)


def test_a_first_run_that_takes_long_is_not_idle() -> None:
    async def body(probe: Prober) -> None:
        await probe(timeout_s=None)
        probe.mood(("run:2000",))
        await probe(timeout_s=None)
        probe.mood(OK)
        await probe(timeout_s=None)
        assert probe.types() == FIRST

    probing(body)


def test_with_its_container_a_command_is_counted_no_more() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(4)
        await probe.kubelet.stop(probe.container, 0)
        await trio.sleep(0.5)
        assert probe.types() == [*FIRST, "repeated", "ended"]
        assert probe.log(events.Ended)[0].event == events.Ended(reason="container")
        assert not probed(probe.node)
        with pytest.raises(WrongState):
            await probe()

    probing(body)


def test_a_run_that_ends_with_its_container_is_written() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.mood(("run:1000",))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(probe, timeout_s=5))
            await trio.sleep(1)
            await probe.kubelet.stop(probe.container, 0)
        await trio.sleep(1)
        assert probe.types() == [*FIRST, "repeated", "changed", "ended"]
        changed = probe.log(events.Changed)[0].event
        assert isinstance(changed, events.Changed)
        assert (changed.exit_code, changed.timed_out) == (137, False)

    probing(body)


def test_one_that_cannot_be_run_ends_the_stream() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.node.faults.script("runtime.exec_sync", "fail")
        with pytest.raises(EffectFailed, match="injected failure"):
            await probe()
        assert probe.types() == [*FIRST, "repeated", "failed"]
        await trio.sleep(0.1)
        assert not probed(probe.node)
        await probe()
        assert probe.log(events.Requested)[-1].event.repeats == ""  # type: ignore[attr-defined]

    probing(body)


@pytest.mark.parametrize("run", [1, 2, 3])
def test_a_caller_that_goes_away_has_its_command_killed(run: int) -> None:
    async def body(probe: Prober) -> None:
        await probe.times(run - 1)
        probe.mood(("run:1000",))
        with trio.move_on_after(1) as patience:
            await probe(timeout_s=5)
        assert patience.cancelled_caught
        await trio.sleep(1)
        assert not probe.node.world.commands
        assert not probe.node.core.exec_effects.jobs  # type: ignore[union-attr]
        last = probe.log()[-1].event
        assert isinstance(last, events.Changed if run == 3 else events.Finished)
        assert (last.exit_code, last.timed_out) == (137, False)
        probe.mood(OK)
        assert (await probe()).exit_code == 0
        assert (await probe()).exit_code == 0

    probing(body)


def test_a_caller_that_goes_away_at_once_leaves_nothing() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        with trio.CancelScope() as scope:
            scope.cancel()
            await probe()
        await trio.sleep(1)
        assert not probe.node.world.commands
        await probe()

    probing(body)


def test_what_is_too_much_to_count_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PER_CONTAINER_MAX", 2)

    async def body(probe: Prober) -> None:
        for number in range(3):
            await probe.times(4, "run:0.1", f"n:{number}")
        assert [bool(one.event.repeats) for one in probe.log(events.Requested)] == [  # type: ignore[attr-defined]
            *(False, True, False, True),
            *[False] * 4,
        ]

    probing(body)


def test_a_node_has_its_limits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PER_NODE_MAX", 1)
    monkeypatch.setattr(probes, "SEEN_MAX", 2)

    async def body(probe: Prober) -> None:
        for number in range(4):
            await probe.times(4, "run:0.1", f"n:{number}")
        assert sum(bool(one.event.repeats) for one in probe.log(events.Requested)) == 1  # type: ignore[attr-defined]
        assert len(probe.probes._open) == 1
        assert len(probe.probes._seen) <= 2

    probing(body)


@pytest.mark.parametrize(("limit", "value"), [("REPORTS_MAX", 3), ("RENEW_S", 200.0)])
def test_no_stream_grows_forever(monkeypatch: pytest.MonkeyPatch, limit: str, value: float) -> None:
    monkeypatch.setattr(probes, limit, value)

    async def body(probe: Prober) -> None:
        for _ in range(8):
            await probe()
            await trio.sleep(repeating.FLUSH_S)
        ends = probe.log(events.Ended)
        assert ends[0].event == events.Ended(reason="renewed")
        after = next(one.event for one in probe.log(events.Requested) if one.seq > ends[0].seq)
        assert f"exec/{after.repeats}" == ends[0].stream, "it goes on in a stream that names the one before"  # type: ignore[attr-defined]

    probing(body)


def test_it_can_be_turned_off() -> None:
    def off(core: Core) -> None:
        host = core.host
        core.exec_effects.probes._host = replace(host, settings=replace(host.settings, coalesce_probes=False))

    async def body(probe: Prober) -> None:
        await probe.times(4)
        assert probe.types() == ["requested", "finished"] * 4
        assert not probed(probe.node)
        assert not probe.probes._seen

    probing(body, on_core=off)


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_crash_of_its_actor_loses_one_run_and_no_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def body(probe: Prober) -> None:
        await probe.times(4)
        probe.node.faults.script("runtime.exec_sync", "bug")
        with pytest.raises(Unavailable, match="the command was lost"):
            await probe()
        await trio.sleep(1)
        await probe()
        await trio.sleep(61)
        assert probe.counts() == [(3, 0)]
        assert any(isinstance(one.event, ActorCrashed) for one in log_of(probe.node))

    probing(body)


def test_an_actor_that_is_given_up_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.node.faults.script("runtime.exec_sync", *["bug"] * (CRASHES_MAX + 1))
        for _ in range(CRASHES_MAX + 1):
            with contextlib.suppress(OcidError):
                await probe()
            await trio.sleep(1.7)
        probe.node.faults.scripted.clear()
        await trio.sleep(30)
        assert (await probe()).exit_code == 0

    probing(body)


def test_a_stop_of_the_daemon_writes_every_count() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(4)
        await probe.times(3, "run:0.2")
        probe.mood(("run:1000",))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quietly, probe)
            await trio.sleep(1)
            await probe.probes.stop()
            assert sorted(probe.counts()) == [(1, 0), (2, 0)]
            assert [one.event for one in probe.log(events.Ended)] == [events.Ended(reason="stop")]
            await probe.node.kill()
            nursery.cancel_scope.cancel()
        assert not probe.node.world.commands, "the run that was under way is ended by the next life"
        (left,) = probe.log(events.Abandoned)
        assert isinstance(left.event, events.Abandoned)
        assert left.event.since_seq == max(one.seq for one in probe.log(events.Repeated) if one.stream == left.stream)

    probing(body)


async def quietly(probe: Prober) -> None:
    with contextlib.suppress(OcidError):
        await probe()


def test_a_kill_of_the_daemon_is_told_and_what_ran_is_ended() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(5)
        probe.mood(("run:1000",))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quietly, probe)
            await trio.sleep(1)
            (second,) = (one for one in probe.log(events.Requested) if one.event.repeats)  # type: ignore[attr-defined]
            assert list(probe.node.world.commands) == [second.event.exec_id]  # type: ignore[attr-defined]
            last = probe.log()[-1].seq
            await probe.node.kill()
            nursery.cancel_scope.cancel()
        assert not probe.node.world.commands
        assert probe.types() == [*FIRST, "abandoned"]
        (told,) = probe.log(events.Abandoned)
        assert told.event.since_seq == last  # type: ignore[attr-defined]
        probe.mood(OK)
        await probe()
        assert probe.log(events.Requested)[-1].event.repeats == "", "a new life knows no probes"  # type: ignore[attr-defined]

    probing(body)


def test_no_answer_before_a_new_outcome_is_durable() -> None:
    async def body(probe: Prober) -> None:
        await probe.times(3)
        probe.mood(NO)
        answers: list[int] = []

        async def ask() -> None:
            with contextlib.suppress(OcidError):
                answers.append((await probe()).exit_code)

        probe.node.life._moment = Moment("before commit", probe.node.disk.commits + 1)  # type: ignore[union-attr]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        assert probe.node.lives == 2
        assert answers == []
        assert not probe.log(events.Changed)

    probing(body)
