"""YAML: what JSON could say, and nothing more."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from ocid.domain import yamltext
from ocid.domain.yamltext import DEPTH_MAX, decode

MAX = 4 << 20
TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cn", "Co", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=20
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with libyaml, where that is there, and with the parser in Python."""
    if not hasattr(yaml, request.param):
        pytest.skip(f"this PyYAML has no {request.param}")
    monkeypatch.setattr(yamltext, "_LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: 1\nb: [x, 'y', \"z\"]\n", {"a": 1, "b": ["x", "y", "z"]}),
        ("- 0660\n- 0o17\n- 0x1F\n- 0\n- -5\n- 08\n", [0o660, 0o17, 31, 0, -5, 8]),
        ("- 1.5\n- 1e3\n- .5\n- 0.6.0\n- 50M\n- .inf\n", [1.5, 1000.0, 0.5, "0.6.0", "50M", ".inf"]),
        ("- true\n- False\n- null\n- ~\n-\n", [True, False, None, None, None]),
        ("- yes\n- on\n- No\n- 1:30\n- 2026-01-01\n- <<\n- =\n", ["yes", "on", "No", "1:30", "2026-01-01", "<<", "="]),
        ("- 'true'\n- \"0\"\n- !!str 7\n- |\n  7\n", ["true", "0", "7", "7\n"]),
        ("1: a\ntrue: b\n~: c\n", {"1": "a", "true": "b", "~": "c"}),
        ("---\na: {b: {}}\n...\n", {"a": {"b": {}}}),
        ("é: ü\n", {"é": "ü"}),
    ],
)
def test_what_is_read(text: str, value: Any):
    assert decode(text.encode(), MAX) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: &x [1]\nb: *x\n", "line 1: anchors and aliases"),
        ("a: 1\nb: &x 2\n", "line 2: anchors and aliases"),
        ("b: *x\n", "anchors and aliases|undefined alias"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !!binary aGk=\n", "the tag"),
        ("a: !custom {b: 1}\n", "the tag '!custom'"),
        ("a: 1\na: 2\n", "line 2: the key 'a' is there twice"),
        ("{[a]: b}\n", "wanted a string as key"),
        ("? {a: b}\n: c\n", "wanted a string as key"),
        ("--- a\n--- b\n", "wanted one document"),
        ("a: [1\n", "no YAML"),
        ("a: b: c\n", "no YAML"),
        ("\tb: c", "no YAML"),
        ("a: \x00\n", "no YAML"),
        ('a: "\\ud800"\n', "no YAML|surrogates not allowed"),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), f"nested deeper than {DEPTH_MAX}"),
        ("[" * 50_000, "nested deeper than|nested too deep|no YAML"),
        ("- - - - - " * 2000, "nested|no YAML"),
    ],
)
def test_what_is_refused(text: str, fault: str):
    with pytest.raises(ValueError, match=fault) as refused:
        decode(text.encode(), MAX)
    assert len(str(refused.value)) < 400


def test_bytes_that_are_too_many_or_no_text_are_refused():
    with pytest.raises(ValueError, match="11 bytes of YAML, the limit is 10"):
        decode(b"a: 12345678", 10)
    with pytest.raises(ValueError, match="no UTF-8 at byte 3"):
        decode(b"a: \xff", MAX)


def test_a_document_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(yamltext, "EVENTS_MAX", 1000)
    assert len(decode(b"[" + b"0," * 990 + b"]", MAX)) == 990
    with pytest.raises(ValueError, match="line 1: more than 1000 parts"):
        decode(b"[" + b"0," * 1000 + b"]", MAX)


def test_a_bomb_of_aliases_costs_nothing():
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    began = time.monotonic()
    with pytest.raises(ValueError, match="anchors and aliases"):
        decode(text.encode(), MAX)
    assert time.monotonic() - began < 1


@given(JSON)
def test_json_is_read_as_json_is(value: Any):
    assert decode(json.dumps(value, ensure_ascii=False).encode(), MAX) == value
