"""The default AppArmor profile on a kernel with AppArmor: what it denies, what it leaves alone, and who is under it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.apparmor import PROFILE
from tests.host import daemon as host, nodes
from tests.host.daemon import Daemon, Kubelet, log_lines, refused, wait_for

PROFILES: Final = Path("/sys/kernel/security/apparmor/profiles")


def _missing() -> str:
    if not PROFILES.exists():
        return "this kernel has no AppArmor, or it is not enabled"
    return "" if shutil.which("apparmor_parser") else "apparmor_parser is not installed"


pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(90 * nodes.SLOW),
    pytest.mark.skipif(bool(_missing()), reason=_missing() or "-"),
]
stage, daemon, kubelet, nothing_leaks = host.stage, host.daemon, host.kubelet, host.nothing_leaks

ENFORCED: Final = f"{PROFILE} (enforce)"
LABEL: Final = "cat /proc/self/attr/current"
UNCONFINED: Final = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
DEFAULT: Final = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
MIGHTY: Final[dict[str, Any]] = {"capabilities": pb.Capability(add_capabilities=["SYS_ADMIN", "SYS_PTRACE"])}
LOCAL: Final = f"ocid-test-{os.getpid()}"


def parser(option: str, text: str) -> None:
    subprocess.run(["apparmor_parser", "-K", option], input=text, text=True, check=True, timeout=60 * nodes.SLOW)


def loaded() -> list[str]:
    return [line.rpartition(" (")[0] for line in PROFILES.read_text().splitlines()]


@pytest.fixture
def local_profile() -> Iterator[str]:
    """A profile of somebody else, under which no file below /tmp can be written."""
    text = f"profile {LOCAL} flags=(attach_disconnected) {{ file, signal, deny /tmp/** w, }}"
    parser("-r", text)
    yield LOCAL
    parser("-R", text)
    assert LOCAL not in loaded()


def sleeper(kubelet: Kubelet, pod_id: str, name: str, **security: Any) -> str:
    return kubelet.start(pod_id, "sleep", "1000", name=name, security=security)


def says(kubelet: Kubelet, container_id: str, script: str) -> str:
    """Run a script and return both outputs, whether it succeeds or not."""
    done = kubelet.exec(container_id, "sh", "-c", f"({script}) 2>&1", timeout_s=60, wait_s=120)
    return done.stdout.decode().strip()


def standing(kubelet: Kubelet) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(kubelet.call("Status", verbose=True).info["apparmor"])
    return answer


def test_containers_run_under_the_profile_and_commands_in_them_do(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    assert kubelet.run(pod_id, "sh", "-c", LABEL) == (0, ENFORCED)
    for name, security in (
        ("unset", {}),
        ("new", {"apparmor": DEFAULT}),
        ("old", {"apparmor_profile": "runtime/default"}),
    ):
        container_id = sleeper(kubelet, pod_id, name, **security)
        assert kubelet.sh(container_id, LABEL) == ENFORCED
        assert kubelet.info(container_id)["runtimeSpec"]["process"]["apparmorProfile"] == PROFILE
    found = standing(kubelet)
    assert found == {"enabled": True, "profile": PROFILE, "mode": "enforce", "problem": ""}
    assert (daemon.run / "apparmor.json").stat().st_mode & 0o777 == 0o600


def test_who_is_not_under_the_profile(kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod(linux={"privileged": True})
    for name, security in (("asks", {"apparmor": UNCONFINED}), ("privileged", {"privileged": True})):
        label = kubelet.sh(sleeper(kubelet, pod_id, name, **security), LABEL)
        assert label == "unconfined" or label.endswith(" (unconfined)"), label


def test_settings_of_the_kernel_and_mounts_are_denied_to_a_mighty_root(kubelet: Kubelet) -> None:
    """The paths are not read-only here, so that nothing but the profile keeps the container from them."""
    setting = "/proc/sys/kernel/printk_ratelimit"
    attempts = {
        "sysctl": f"cat {setting} >/tmp/v && cat /tmp/v >{setting} && echo done",
        "mount": "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m && echo done",
        "sysfs": "mount -o remount,rw /sys; echo 1 >/sys/kernel/mm/ksm/sleep_millisecs && echo done",
    }
    pod_id, open_paths = kubelet.run_pod(), {"masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/bus"]}
    free = sleeper(kubelet, pod_id, "free", apparmor=UNCONFINED, **MIGHTY, **open_paths)
    confined = sleeper(kubelet, pod_id, "confined", **MIGHTY, **open_paths)
    for what, script in attempts.items():
        if what != "sysfs":  # the setting is the node's own
            assert says(kubelet, free, script) == "done", what
        said = says(kubelet, confined, script)
        assert "done" not in said, what
        assert what == "sysfs" or "ermission denied" in said, (what, said)
    memory = "/proc/sys/kernel/shmmni"
    assert says(kubelet, confined, f"cat {memory} >/tmp/v && cat /tmp/v >{memory} && echo done") == "done"
    own = "echo 600 >/proc/self/oom_score_adj; cat /proc/self/comm >/tmp/x && echo done"
    assert says(kubelet, confined, own) == "done"


@pytest.mark.parametrize("handler", ["runc", "crun"])
def test_containers_of_one_pod_signal_each_other_and_stop_as_asked(
    daemon: Daemon, kubelet: Kubelet, handler: str, crun_refusal: str
) -> None:
    if handler == "crun" and crun_refusal:
        pytest.skip(f"crun cannot run here: {crun_refusal}")
    pod_id, shared = kubelet.run_pod(kubelet.pod_config(pid=pb.POD), handler), pb.NamespaceOption(pid=pb.POD)
    one = sleeper(kubelet, pod_id, "one", namespace_options=shared)
    assert kubelet.sh(one, LABEL) == ENFORCED
    script = "trap 'exit 7' TERM; echo up $$; while :; do sleep 0.2; done"
    for name, end in (("peer", "signal"), ("tool", "runtime"), ("asked", "stop")):
        victim = kubelet.start(pod_id, "sh", "-c", script, name=name, security={"namespace_options": shared})
        log = Path(kubelet.status(victim).log_path)
        wait_for(lambda log=log: log.exists() and "up" in log.read_text(), "the trap is set", 20 * nodes.SLOW)  # type: ignore[misc]
        if end == "signal":
            kubelet.sh(one, f"kill -TERM {log_lines(log)[0][2].split()[1]}")
        elif end == "runtime":
            state = f"--root={daemon.run}/runtime/{handler}"
            subprocess.run([handler, state, "kill", victim, "TERM"], check=True, timeout=60)
        else:
            kubelet.call("StopContainer", container_id=victim, timeout=60, wait_s=120)
        assert kubelet.exited(victim, 30 * nodes.SLOW).exit_code == 7, end


def test_a_profile_of_somebody_else(kubelet: Kubelet, local_profile: str) -> None:
    pod_id = kubelet.run_pod()
    wanted = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=local_profile)
    container_id = sleeper(kubelet, pod_id, "local", apparmor=wanted)
    assert kubelet.sh(container_id, LABEL) == f"{local_profile} (enforce)"
    assert "ermission denied" in says(kubelet, container_id, "echo x >/tmp/x")
    absent = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="localhost/ocid-no-such")
    with pytest.raises(GRPCError) as error:
        kubelet.create(pod_id, "true", security={"apparmor": absent})
    assert refused(error) == (
        Status.INVALID_ARGUMENT,
        "container main: apparmor profile 'ocid-no-such' is not loaded: load it with apparmor_parser",
    )
    kubelet.remove_everything()  # before the profile


def test_a_profile_that_was_unloaded_is_loaded_again(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    parser("-R", f"profile {PROFILE} {{ file, }}")
    assert PROFILE not in loaded()
    assert kubelet.run(pod_id, "sh", "-c", LABEL) == (0, ENFORCED)


def test_a_start_with_the_profile_in_place_runs_no_parser(daemon: Daemon, kubelet: Kubelet) -> None:
    pod_id = kubelet.run_pod()
    container_id = sleeper(kubelet, pod_id, "c")
    daemon.kill()
    before = daemon.said().count("loaded apparmor profile")
    daemon.start()
    with daemon.client() as cri:
        again = Kubelet(cri, daemon.directory, daemon.cgroup_parent)
        wait_for(lambda: standing(again)["mode"] == "enforce", "the profile is found", 20 * nodes.SLOW)
        assert again.sh(container_id, LABEL) == ENFORCED
    assert daemon.said().count("loaded apparmor profile") == before
    with contextlib.suppress(GRPCError):
        kubelet.call("Version")  # the old connection is gone
