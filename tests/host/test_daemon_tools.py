"""Network plugins and OCI runtimes that do not do their work: it is said in words, is in the log, and nothing stays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Status

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import pod as pod_events
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Daemon, Kubelet, Stage, wait_for
from tests.host.kubelet import refusal
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(90 * SLOW)]
stage, kubelet, nothing_leaks = host.stage, host.kubelet, host.nothing_leaks

SOON = """
import ocid.adapters.conmon, ocid.adapters.network
ocid.adapters.conmon.CREATE_S = 2.0
ocid.adapters.network.Networks.__init__.__kwdefaults__["plugin_timeout_s"] = 1.5
"""
RUNTIME = """#!/bin/sh
# an OCI runtime that cannot create containers
for word in "$@"; do
  case "$word" in
    create) {how} ;;
    --version|features|state|delete|kill) exec runc "$@" ;;
  esac
done
exec runc "$@"
"""


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def daemon(stage: Stage, private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with short patience, and OCI runtimes that do not do their work."""
    scratch = tmp_path_factory.mktemp("runtimes")
    failing = program(scratch / "failing", RUNTIME.format(how="echo 'the runtime refuses' >&2; exit 1"))
    hanging = program(scratch / "hanging", RUNTIME.format(how="exec sleep 987"))
    config = {"runtime.handlers.failing": {"path": failing}, "runtime.handlers.hanging": {"path": hanging}}
    with stage.daemon(config, prelude=SOON) as one:
        with one.client() as cri:
            cri.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        yield one
        one.check_log()


PLUGIN = """#!/bin/sh
cat >/dev/null
here=$(dirname "$0")
echo "$CNI_COMMAND" >>"$here/calls"
if [ -e "$here/$CNI_COMMAND-hangs" ]; then exec sleep 876; fi
if [ -e "$here/$CNI_COMMAND-fails" ]; then
  echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no address for you", "details": "pool empty"}'
  exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]}'
fi
"""


@pytest.fixture
def with_plugin(stage: Stage, private_mounts: None) -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose CNI plugin does what files beside it say."""
    with stage.daemon(start=False, prelude=SOON) as one:
        plugins = one.directory / "plugins"
        one.config["network"] = {"cni_bin_dirs": [str(plugins)]}
        plugins.mkdir()
        program(plugins / "moody", PLUGIN)
        (one.directory / "net.d").mkdir()
        network = {"cniVersion": "1.0.0", "name": "moody-net", "plugins": [{"type": "moody"}]}
        (one.directory / "net.d" / "10.conflist").write_text(json.dumps(network))
        one.start()
        yield one, plugins
        one.check_log()


@pytest.mark.parametrize(
    ("mood", "code", "words"),
    [
        ("ADD-fails", Status.UNAVAILABLE, ("moody-net", "moody", "no address for you", "pool empty")),
        ("ADD-hangs", Status.UNAVAILABLE, ("moody-net", "moody", "did not end within 1.5 s")),
    ],
)
def test_plugins_that_cannot_add(with_plugin: tuple[Daemon, Path], mood: str, code: Status, words: tuple[str]) -> None:
    one, plugins = with_plugin
    (plugins / mood).touch()
    with one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        config = kubelet.pod_config()
        error = refusal(lambda: kubelet.run_pod(config))
        assert error.status is code
        assert [word for word in words if word not in (error.message or "")] == [], error.message
        failed = [each.event for each in one.events() if isinstance(each.event, pod_events.Failed)]
        assert [each.step for each in failed] == ["Attach"]
        one.assert_no_leaks()
        assert "DEL" in (plugins / "calls").read_text().split()
        (plugins / mood).unlink()
        (plugins / "calls").unlink()
        pod_id = kubelet.run_pod(config)
        assert kubelet.pod_status(pod_id).network.ip == "10.9.8.7"
        kubelet.end_pod(pod_id)
        assert (plugins / "calls").read_text().split() == ["ADD", "DEL"]


@pytest.mark.parametrize("mood", ["DEL-fails", "DEL-hangs"])
def test_plugins_that_cannot_delete(with_plugin: tuple[Daemon, Path], mood: str) -> None:
    """StopPodSandbox says so and goes on trying; the pod stays listed until it comes through."""
    one, plugins = with_plugin
    with one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        pod_id = kubelet.run_pod()
        (plugins / mood).touch()
        error = refusal(lambda: kubelet.call("StopPodSandbox", pod_sandbox_id=pod_id))
        assert error.status is Status.UNAVAILABLE
        assert "it is being tried again" in (error.message or "")
        assert kubelet.pod_status(pod_id).state == pb.SANDBOX_NOTREADY
        assert "pod.effect_failed" in one.types()
        one.kill()
        one.start()
        (plugins / mood).unlink()
        wait_for(lambda: "pod.stopped" in one.types(), "the plugin's DEL comes through")
        kubelet.end_pod(pod_id)


@pytest.mark.parametrize(("handler", "words"), [("failing", "the runtime refuses"), ("hanging", "no answer in 2 s")])
def test_runtimes_that_cannot_create(daemon: Daemon, kubelet: Kubelet, handler: str, words: str) -> None:
    pod_id = kubelet.run_pod(handler=handler)
    seq = daemon.last_seq()
    container_id = kubelet.create(pod_id, "sleep", "1000")
    error = refusal(lambda: kubelet.call("StartContainer", container_id=container_id))
    assert words in (error.message or "")
    assert container_id in (error.message or "")
    status = kubelet.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert words in status.message
    assert status.finished_at > 0
    assert {"container.create_failed", "node.request_refused"} <= set(daemon.types(seq + 1))
    assert not [one for one in daemon._processes() if "987" in one]
    kubelet.call("RemoveContainer", container_id=container_id)
    second = kubelet.create(pod_id, "sleep", "1000", attempt=1)
    began = time.monotonic()
    kubelet.call("RemoveContainer", container_id=second)
    assert time.monotonic() - began < 5 * SLOW
    kubelet.end_pod(pod_id)
    daemon.assert_no_leaks()
    kubelet.end_pod(kubelet.run_pod())


def test_a_handler_that_is_no_program(stage: Stage, private_mounts: None, tmp_path: Path) -> None:
    """The daemon does not start, and says which handler it is."""
    for path in (str(tmp_path / "missing"), program(tmp_path / "nonsense", "#!/bin/sh\necho what; exit 3\n")):
        with stage.daemon({"runtime.handlers.odd": {"path": path}}, start=False) as one:
            one.start(ready=False)
            assert one.keeper.ended(one.pid, 20) not in (None, 0)
            assert path in one.said() or "'odd'" in one.said()
            assert "Traceback" not in one.said()
            assert not one.socket.exists()
