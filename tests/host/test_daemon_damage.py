"""A damaged log never keeps a node from booting: it is set aside, and what lived in its good part goes on."""

from __future__ import annotations

import pytest

from ocid.cri.stubs import api_pb2 as pb
from ocid.events import node as node_events
from tests.host import daemon as host
from tests.host.daemon import IMAGE, Kubelet, Stage
from tests.host.nodes import SLOW

pytestmark = [pytest.mark.host, pytest.mark.timeout(120 * SLOW)]
stage, nothing_leaks = host.stage, host.nothing_leaks


def test_a_container_goes_on_after_a_record_of_its_log_was_damaged(stage: Stage, private_mounts: None) -> None:
    with stage.daemon() as one, one.client() as cri:
        kubelet = Kubelet(cri, one.directory, one.cgroup_parent)
        kubelet.call("PullImage", image=pb.ImageSpec(image=IMAGE))
        pod_id = kubelet.run_pod(kubelet.pod_config())
        container_id = kubelet.start(pod_id, "sleep", "1000")
        assert kubelet.exec(container_id, "true").exit_code == 0
        one.kill()
        with one.log() as reader:
            ((newest, record),) = reader.records(reader.last_seq())
        data = one.root / "log" / "data.mdb"
        content = data.read_bytes()
        assert record in content
        data.write_bytes(content.replace(record, record[:-1] + bytes([record[-1] ^ 1])))
        one.start()

        assert len([path for path in one.root.iterdir() if path.name.startswith("log.quarantine-")]) == 1
        with one.log() as reader:
            found = [envelope.event for envelope in reader.read(1)]
        (aside,) = [event for event in found if isinstance(event, node_events.LogQuarantined)]
        assert aside.last_good_seq == newest - 1
        conditions = kubelet.call("Status").status.conditions
        assert any("set aside" in condition.message for condition in conditions)
        assert [(item.id, item.state) for item in kubelet.call("ListPodSandbox").items] == [(pod_id, pb.SANDBOX_READY)]
        (container,) = kubelet.call("ListContainers").containers
        assert (container.id, container.state) == (container_id, pb.CONTAINER_RUNNING)
        assert kubelet.exec(container_id, "true").exit_code == 0
        kubelet.end_pod(pod_id)
        one.assert_no_leaks()
