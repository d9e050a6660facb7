"""A token gives one session, once, for a minute."""

from __future__ import annotations

import random
import re

import pytest

from ocid.errors import Exhausted
from ocid.ports.sessions import Grant, Kind, url
from ocid.streaming.tokens import LIFE_S, Tokens

GRANT = Grant(session_id="one", kind=Kind.EXEC, stdout=True)


class Time:
    """A clock that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_redeemed_once() -> None:
    tokens = Tokens(random.Random(1).randbytes, Time())
    first, second = tokens.issue(GRANT), tokens.issue(GRANT)

    assert first != second
    assert tokens.claim(first) is GRANT
    assert tokens.claim(first) is None
    assert tokens.claim("never issued") is None
    assert len(tokens) == 1


def test_a_token_has_128_bits_at_least_in_characters_of_a_url() -> None:
    asked = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    token = Tokens(source, Time()).issue(GRANT)

    assert asked == [18]
    assert re.fullmatch(r"[A-Za-z0-9_-]{24}", token)
    assert url("http://127.0.0.1:1/", Kind.FORWARD, token) == f"http://127.0.0.1:1/portforward/{token}"


def test_a_token_expires() -> None:
    time = Time()
    tokens = Tokens(random.Random(1).randbytes, time)
    old = tokens.issue(GRANT)
    time.now += LIFE_S - 1
    young = tokens.issue(GRANT)
    time.now += 1

    assert tokens.claim(old) is None
    assert tokens.claim(young) is GRANT


def test_the_number_that_waits_is_limited_and_room_comes_back() -> None:
    time = Time()
    tokens = Tokens(random.Random(1).randbytes, time, outstanding_max=2)
    first, _ = tokens.issue(GRANT), tokens.issue(GRANT)

    with pytest.raises(Exhausted, match="2 streaming sessions wait"):
        tokens.issue(GRANT)
    tokens.claim(first)
    tokens.issue(GRANT)
    with pytest.raises(Exhausted):
        tokens.issue(GRANT)
    time.now += LIFE_S
    tokens.issue(GRANT)
    assert len(tokens) == 1


def test_no_token_shows_in_what_is_printed() -> None:
    tokens = Tokens(random.Random(1).randbytes, Time())
    token = tokens.issue(GRANT)

    assert token not in repr(tokens) + str(GRANT)
