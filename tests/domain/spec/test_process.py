"""Arguments, environment, working directory, OOM score and rlimits."""

from __future__ import annotations

import pytest

from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.redaction import DEFAULT_RULES
from ocid.domain.spec.inputs import HostFacts, Rlimit, SpecPolicy
from ocid.domain.spec.process import arguments, container_process, environment, exec_process, fitted, working_dir
from ocid.domain.spec.recorded import recorded_spec
from ocid.errors import InvalidRequest
from tests.domain.spec.builders import inputs


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "args", "expected"),
    [  # Kubernetes, "Define a Command and Arguments for a Container"
        (("/ep-1",), ("foo", "bar"), (), (), ("/ep-1", "foo", "bar")),
        (("/ep-1",), ("foo", "bar"), ("/ep-2",), (), ("/ep-2",)),
        (("/ep-1",), ("foo", "bar"), (), ("zoo", "boo"), ("/ep-1", "zoo", "boo")),
        (("/ep-1",), ("foo", "bar"), ("/ep-2",), ("zoo", "boo"), ("/ep-2", "zoo", "boo")),
        ((), ("foo",), (), (), ("foo",)),
        ((), ("foo",), (), ("bar",), ("bar",)),
        (("",), ("sh",), (), (), ("sh",)),
    ],
)
def test_command_and_arguments_override_the_image(
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    command: tuple[str, ...],
    args: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    image = ImageConfig(entrypoint=entrypoint, cmd=cmd)

    assert expected == arguments(c.ContainerConfig(command=command, args=args), image)


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no command specified"):
        arguments(c.ContainerConfig(), ImageConfig())


def test_config_beats_image_beats_policy_and_each_name_comes_once() -> None:
    made = inputs(
        image=ImageConfig(entrypoint=("x",), env=("A=image", "B=image", "C=image", "=bad", "NAKED")),
        container={"envs": (c.EnvVar(key="B", value=b"config"), c.EnvVar(key="PATH", value=b"/mine")), "tty": True},
        policy=SpecPolicy(env=("A=policy", "Z=policy")),
        extra_env=("C=cdi",),
    )

    assert environment(made) == [
        "PATH=/mine", "TERM=xterm", "HOSTNAME=web-0", "A=image", "Z=policy", "B=config", "C=cdi", "NAKED=",
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [("A=B", b""), ("", b"x"), ("A\0", b""), ("A", b"\0"), ("A", b"\xff")])
def test_impossible_variables_are_refused(bad: tuple[str, bytes]) -> None:
    with pytest.raises(InvalidRequest, match="envs"):
        environment(inputs(container={"envs": (c.EnvVar(key=bad[0], value=bad[1]),)}))


@pytest.mark.parametrize(
    ("mine", "images", "expected"), [("/a", "/b", "/a"), ("", "/b", "/b"), ("", "", "/"), ("", "srv", "/srv")]
)
def test_working_dir(mine: str, images: str, expected: str) -> None:
    assert working_dir(c.ContainerConfig(working_dir=mine), ImageConfig(working_dir=images)) == expected


@pytest.mark.parametrize(
    ("wanted", "can_lower", "own", "expected"),
    [
        (-997, True, 0, -997),
        (-997, False, 0, 0),
        (-997, False, -900, -900),
        (999, False, 0, 999),
        (5000, True, 0, 1000),
    ],
)
def test_oom_score_is_clamped_where_the_kernel_would_refuse(
    wanted: int, can_lower: bool, own: int, expected: int
) -> None:
    host = HostFacts(can_lower_oom_score_adj=can_lower, oom_score_adj=own)
    process = container_process(inputs(host=host, resources=c.LinuxResources(oom_score_adj=wanted)))

    assert process["oomScoreAdj"] == expected


def test_rlimits_stop_at_the_daemons_own_ceiling() -> None:
    policy = SpecPolicy(
        rlimits=(Rlimit(kind="RLIMIT_NOFILE", soft=1024, hard=1 << 20), Rlimit(kind="RLIMIT_CORE", soft=9, hard=9))
    )
    process = container_process(inputs(policy=policy, host=HostFacts(rlimits_hard={"RLIMIT_NOFILE": 512})))

    assert process["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "hard": 512, "soft": 512},
        {"type": "RLIMIT_CORE", "hard": 9, "soft": 9},
    ]


def test_exec_inherits_all_but_arguments_and_terminal() -> None:
    process = container_process(inputs(security={"run_as_user": 33}))

    ours = exec_process(process, ("id",), terminal=True)

    assert ours["args"] == ["id"]
    assert ours["terminal"] is True
    assert "TERM=xterm" in str(ours["env"])
    assert ours["user"] == process["user"]
    assert process["args"] == ["/app", "serve"]
    with pytest.raises(InvalidRequest, match="no command"):
        exec_process(process, (), terminal=False)


def test_secrets_in_hooks_that_plugins_add_stay_out_of_the_log() -> None:
    hook = {"path": "/h", "args": ["h", "--api-key", "canary"], "env": ["DB_PASSWORD=canary", "LANG=C"]}
    spec = {"process": {"env": [], "args": []}, "hooks": {"poststop": [hook]}}
    recorded = recorded_spec(spec, DEFAULT_RULES, bytes(16))

    assert "canary" not in str(recorded)
    assert recorded["hooks"]["poststop"][0]["env"][1] == "LANG=C"
    assert "canary" in str(spec)


def test_what_plugins_want_of_a_process_is_fitted_to_what_the_daemon_can_set() -> None:
    host = HostFacts(can_lower_oom_score_adj=False, oom_score_adj=100, rlimits_hard={"RLIMIT_NOFILE": 50})
    wanted = {"args": ["x"], "oomScoreAdj": -999, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 60, "hard": 70}]}

    assert fitted(wanted, host) == {
        "args": ["x"], "oomScoreAdj": 100, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}]
    }  # fmt: skip
    assert fitted({"args": ["x"]}, host) == {"args": ["x"]}
