"""Correlation hints: taken from where clients put them, and nothing else with them."""

from __future__ import annotations

import pytest

from ocid.domain.hints import VARIABLES_MAX, audit_hints
from ocid.domain.redaction import DEFAULT_RULES, RedactionRules, redact_argv

UID = "dbbf5fca-c955-4922-99d2-27a50212071c"
SPO, KUBE = f"SPO_EXEC_REQUEST_UID={UID}", "KUBERNETES_EXEC_AUDIT_ID=f4a3b2c1-1234-5678-9abc-def012345678"


@pytest.mark.parametrize(
    ("argv", "hints"),
    [
        ((), ()),
        (("ls",), ()),
        (("env",), ()),
        (("env", SPO, "ls"), (SPO,)),
        (("/usr/bin/env", SPO), (SPO,)),
        (("env", "A=b", KUBE, "C=", SPO, "sh"), (KUBE, SPO)),
        (("env", SPO, KUBE, "sh"), (KUBE, SPO)),
        (("env", "SPO_EXEC_REQUEST_UID=first", SPO, "ls"), (SPO,)),
        (("env", "ls", SPO), ()),
        (("env", "-i", SPO, "ls"), ()),
        (("echo", SPO), ()),
        (("myenv", SPO), ()),
        (("sh", "-c", f"env {SPO} ls"), ()),
        (("env", "XSPO_EXEC_REQUEST_UID=a", "spo_exec_request_uid=a"), ()),
        (("env", "SPO_EXEC_REQUEST_UID="), ()),
        (("env", "SPO_EXEC_REQUEST_UID=" + "a" * 128), ("SPO_EXEC_REQUEST_UID=" + "a" * 128,)),
        (("env", "SPO_EXEC_REQUEST_UID=" + "a" * 129), ()),
        (("env", "SPO_EXEC_REQUEST_UID=a b"), ()),
        (("env", "SPO_EXEC_REQUEST_UID=a\nb"), ()),
        (("env", "SPO_EXEC_REQUEST_UID=a\n"), ()),
        (("env", "SPO_EXEC_REQUEST_UID=\x1b[31m"), ()),
        (("env", "SPO_EXEC_REQUEST_UID=é"), ()),
        (("env", *["A=b"] * VARIABLES_MAX, SPO), ()),
    ],
)
def test_where_hints_are_found(argv: tuple[str, ...], hints: tuple[str, ...]):
    assert audit_hints(argv, DEFAULT_RULES) == hints


@pytest.mark.parametrize(
    "secret", ["AKIAIOSFODNN7EXAMPLE", "ghp_" + "a" * 36, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdef"]
)
def test_what_has_the_shape_of_a_secret_is_no_hint(secret: str):
    assert audit_hints(("env", f"SPO_EXEC_REQUEST_UID={secret}", "ls"), DEFAULT_RULES) == ()


def test_redaction_hides_no_hint_and_a_hint_shows_nothing_else():
    argv = ("env", SPO, "DB_PASSWORD=hunter2", "ls")
    salt = b"0123456789abcdef"
    assert audit_hints(argv, DEFAULT_RULES) == (SPO,)
    assert redact_argv(argv, DEFAULT_RULES, salt)[1] == SPO
    eager = RedactionRules(name_pattern="UID|PASSWORD")
    assert UID not in " ".join(redact_argv(argv, eager, salt))
    assert audit_hints(argv, eager) == (SPO,), "an operator's pattern for names hides variables, not this claim"
