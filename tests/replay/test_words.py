"""Every kind of event has words; they hold whatever the event holds, and stay on one line where it matters."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ocid.events.base import REGISTRY, Event, Opaque
from ocid.events.node import PeerSeen
from ocid.projections.fields import fields
from ocid.projections.text import clean
from ocid.projections.words import exit_words, kinds, who, who_in_full, words
from tests.events.samples import events, sample

OURS = sorted((kind for kind in REGISTRY.values() if kind.__module__.startswith("ocid.")), key=lambda kind: kind.TYPE)


def test_every_kind_of_event_has_words_of_its_own() -> None:
    assert [kind.TYPE for kind in OURS if kind not in kinds()] == []


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.TYPE)
def test_words_are_there_for_a_sample(kind: type[Event]) -> None:
    said = words(sample(kind))
    assert said
    assert "Struct" not in said
    assert "(" + kind.__name__ not in said


@given(st.sampled_from(OURS).flatmap(events))
def test_words_hold_whatever_an_event_holds(event: Event) -> None:
    assert clean(words(event)).isprintable()
    assert isinstance(fields(event), dict)


@given(st.binary(max_size=60))
def test_unknown_kinds_are_shown_whatever_they_hold(payload: bytes) -> None:
    event = Opaque(type="later.kind", type_version=3, payload=payload)
    assert "does not know" in words(event)


def test_exit_codes_name_the_signal() -> None:
    assert exit_words(0) == "exit code 0"
    assert exit_words(143) == "exit code 143 (SIGTERM)"
    assert exit_words(255) == "exit code 255"
    assert exit_words(128 + 99) == "exit code 227 (signal 99)"


def test_who_asked_is_named_by_program_and_pid() -> None:
    peer = PeerSeen(
        pid=7, start_ticks=1, uid=0, gid=0, exe="/usr/bin/crictl", comm="crictl", cgroup="/", login_uid=1004
    )
    assert who(peer, 3) == "crictl[7]"
    assert who(None, 3) == "peer #3"
    assert who(None, 0) == "ocid"
    assert who_in_full(peer, 3) == "/usr/bin/crictl (pid 7, uid 0, logged in as uid 1004) [3]"
    assert "does not say" in who_in_full(None, 3)
