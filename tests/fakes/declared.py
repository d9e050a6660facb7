"""Declarations of pods, containers and commands, as short to write as a test can bear."""

from __future__ import annotations

from typing import Any

from ocid.events import container, exec as execution, pod, session
from ocid.ids import ContainerId, Digest, ExecId, ImageId, PodId, SessionId, digest_of

EMPTY = digest_of(b"{}")


def pod_declared(pod_id: str = "p1", **fields: Any) -> pod.Declared:
    """A pod on the built-in bridge, unless *fields* say otherwise."""
    return pod.Declared(
        **{
            "pod_id": PodId(pod_id),
            "name": "web",
            "namespace": "prod",
            "uid": "u1",
            "attempt": 0,
            "created_at_ns": 1,
            "config": EMPTY,
            "handler": "",
            "network": "bridge",
            "addresses": ("10.88.0.2/16",),
            "interface": "veth1",
            "netns": f"/run/ocid/pods/{pod_id}/ns/net",
            "run_dir": f"/run/ocid/pods/{pod_id}",
            "cgroup_parent": "/ocid",
            **fields,
        }
    )


def container_declared(container_id: str = "c1", **fields: Any) -> container.Declared:
    """A container of pod p1, unless *fields* say otherwise."""
    return container.Declared(
        **{
            "container_id": ContainerId(container_id),
            "pod_id": PodId("p1"),
            "name": "app",
            "attempt": 0,
            "created_at_ns": 1,
            "config": EMPTY,
            "secrets": 0,
            "image_id": ImageId(EMPTY),
            "image_ref": "reg/app@" + EMPTY,
            "image_manifest": EMPTY,
            "handler": "",
            "log_path": "",
            "bundle": f"/run/ocid/containers/{container_id}",
            "writable": f"/var/lib/ocid/containers/{container_id}",
            "cgroup": f"/ocid/{container_id}",
            **fields,
        }
    )


def exec_requested(exec_id: str = "e1", **fields: Any) -> execution.Requested:
    """A command in container c1."""
    return execution.Requested(
        **{
            "exec_id": ExecId(exec_id),
            "container_id": ContainerId("c1"),
            "argv": Digest(EMPTY),
            "argv_brief": "true",
            "timeout_s": 0,
            **fields,
        }
    )


def session_requested(session_id: str = "s1", **fields: Any) -> session.Requested:
    """A client's command in container c1 of pod p1."""
    return session.Requested(
        **{
            "session_id": SessionId(session_id),
            "kind": "exec",
            "pod_id": PodId("p1"),
            "container_id": ContainerId("c1"),
            "argv": Digest(EMPTY),
            "argv_brief": "sh",
            "stdin": True,
            "stdout": True,
            "tty": True,
            **fields,
        }
    )
