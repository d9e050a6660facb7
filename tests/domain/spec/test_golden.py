"""Whole OCI specs against files that a reviewer can read.

After a wanted change: ``OCID_REGENERATE_GOLDEN=1 pytest tests/domain/spec/test_golden.py``, then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ocid.domain.spec.build import PauseInputs, build_container_spec, build_pause_spec
from tests.domain.spec import builders

HERE = Path(__file__).parent


def _agrees(name: str, spec: dict[str, Any]) -> None:
    text = json.dumps(spec, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = HERE / "golden" / f"{name}.json"
    if os.environ.get("OCID_REGENERATE_GOLDEN"):
        path.write_text(text)
    assert json.loads(text) == json.loads(path.read_text()), f"{path.name} differs; see this file's docstring"


@pytest.mark.parametrize("name", builders.CASES)
def test_spec_is_the_golden_one(name: str) -> None:
    _agrees(name, build_container_spec(builders.CASES[name]))


def test_pause_spec_is_the_golden_one() -> None:
    case = builders.CASES["shared_pid_v1"]
    pause = PauseInputs(pod=case.pod, pod_id=case.pod_id, rootfs="/r", namespaces=case.namespaces)
    _agrees("pause", build_pause_spec(pause))


def test_same_inputs_same_spec() -> None:
    case = builders.CASES["kubelet"]
    assert json.dumps(build_container_spec(case)) == json.dumps(build_container_spec(case))
