"""What the documents of a container checkpoint may say, and what of it is taken over."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain import checkpoint_facts as domain
from ocid.domain.checkpoint_facts import deleted_names, facts_of, inherited, missing_binds
from ocid.errors import InvalidRequest
from ocid.events import container as events
from ocid.projections.words import words
from tests.fakes.declared import EMPTY, container_declared

OURS = {"name": "app", "rootfsImage": "app:1", "rootfsImageRef": "sha256:1", "rootfsImageName": "reg/app@sha256:2"}


def documents(**changes: Any) -> dict[str, bytes]:
    """The documents of an archive, some of them changed; None leaves one out."""
    found = {"config": OURS, "spec": {}, **changes}
    return {f"{name}.dump": json.dumps(content).encode() for name, content in found.items() if content is not None}


def test_the_image_is_named_the_surest_way_first() -> None:
    assert facts_of(documents()).image_refs == ("sha256:1", "reg/app@sha256:2", "app:1")
    assert facts_of(documents(config={"rootfsImageName": "app:1", "rootfsImage": "app:1"})).image_refs == ("app:1",)
    assert facts_of(documents(config={})).image_refs == ()


def test_bind_mounts_are_told_from_others() -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/x"},
        {"destination": "/a", "type": "none", "options": ["ro", "rbind"]},
        {"destination": "/data", "type": "bind"},
    ]
    found = facts_of(documents(spec={"mounts": mounts, "process": {"terminal": True}}))

    assert (found.binds, found.terminal) == (("/data", "/a"), True)
    assert missing_binds(found.binds, {"mounts": [{"destination": "/data/"}]}) == ["/a"]
    assert missing_binds(found.binds, {}) == ["/data", "/a"]


def test_annotations_are_where_each_runtime_keeps_them() -> None:
    inner = {"io.kubernetes.cri-o.Annotations": json.dumps({"a": "of CRI-O"}), "b": "of the runtime"}
    assert facts_of(documents(spec={"annotations": inner})).annotations == {"a": "of CRI-O"}
    assert facts_of(documents(status={"annotations": {"a": "1"}, "labels": {"b": "2"}})).annotations == {"a": "1"}


def test_annotations_that_steer_are_not_taken_over() -> None:
    theirs = dict.fromkeys(
        [
            "io.kubernetes.container.preStopHandler", "cdi.k8s.io/gpu", "devices.nri.io/container.x", "nri.io",
            "memory-qos.noderesource.dev/class", "run.oci.handler", "io.kubernetes.cri-o.userns-mode",
        ],
        "x",
    )  # fmt: skip
    kept = {"note": "y", "example.com/team": "y", "notnri.io/a": "y", "kubernetes.io/config.source": "y"}

    assert inherited({**theirs, **kept}, ("run.oci.",)) == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": []}, r"'config\.dump' cannot be read"),
        ({"config": {"name": 7}}, r"'config\.dump' cannot be read"),
        ({"config": {"rootfsImageRef": "x" * 1025}}, "wanted at most 1024 characters"),
        ({"config": {"name": "a\nb"}}, "wanted at most 1024 characters"),
        ({"spec": {"mounts": "x"}}, r"'spec\.dump' cannot be read"),
        ({"spec": {"annotations": {"io.kubernetes.cri-o.Annotations": "{"}}}, r"'spec\.dump' cannot be read"),
        ({"status": {"annotations": {"a": 7}}}, r"'status\.dump' cannot be read"),
        ({"status": {"annotations": {"a": "x" * 65_536}}}, "annotations have 65537 characters, the limit is 65536"),
        (
            {"spec": {"mounts": [{"destination": f"/{n}", "type": "bind"} for n in range(10_001)]}},
            "had 10001 bind mounts, the limit is 10000",
        ),
    ],
)
def test_documents_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        facts_of(documents(**changes))


def test_a_list_of_deleted_files() -> None:
    assert deleted_names(b'["/a","b"]') == ("/a", "b")
    for raw in (b"", b"{}", b"[7]", b"\xff", b"[" * 100_000):
        with pytest.raises(InvalidRequest, match=r"'deleted\.files' cannot be read"):
            deleted_names(raw)


def test_too_many_deleted_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "DELETED_MAX", 2)
    with pytest.raises(InvalidRequest, match="has 3 names, the limit is 2"):
        deleted_names(b'["a","b","c"]')


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_the_documents_hold_there_are_facts_or_one_error(config: bytes, spec: bytes, status: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        facts_of({"config.dump": config, "spec.dump": spec, "status.dump": status})


def test_the_log_says_what_a_container_goes_on_from() -> None:
    archive = events.Origin(digest=EMPTY, archive="/one.tar", name="old")
    assert words(container_declared(restores=archive)).endswith("to go on from the checkpoint of old in /one.tar")
    assert "checkpoint in image" in words(container_declared(restores=events.Origin(digest=EMPTY)))
    unstarted = events.Exited(at_ns=1, exit_code=137, source="unstarted")
    assert words(unstarted) == "stopped before anything of it ran, which counts as exit code 137"
