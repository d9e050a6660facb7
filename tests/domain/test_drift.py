"""Claims against findings: what is a difference, and what is only a moment."""

from __future__ import annotations

import pytest

from ocid.domain.drift import (
    ANYTHING,
    NOTHING,
    PRESENT,
    Claim,
    Difference,
    Sighting,
    Thing,
    compare,
    confirmed,
)

A, B = Thing("mount", "/a"), Thing("process", "container/c1")


def claim(thing: Thing, expected: str, seq: int = 7, given: Thing | None = None) -> Claim:
    return Claim(thing=thing, expected=expected, seq=seq, given=given)


@pytest.mark.parametrize(
    ("expected", "found", "differs"),
    [
        ("tmpfs", "tmpfs", False),
        ("tmpfs", "ext4", True),
        ("tmpfs", NOTHING, True),
        (PRESENT, "whatever", False),
        (PRESENT, NOTHING, True),
        (NOTHING, NOTHING, False),
        (NOTHING, "tmpfs", True),
        (ANYTHING, "tmpfs", False),
        (ANYTHING, NOTHING, False),
    ],
)
def test_a_claim_holds_or_does_not(expected: str, found: str, differs: bool) -> None:
    told = compare([claim(A, expected)], Sighting(found={A: found} if found else {}))
    wanted = Difference(kind="mount", subject="/a", expected=expected, found=found, seq=7)

    assert told == ((wanted,) if differs else ())


def test_what_nothing_claims_is_a_difference() -> None:
    told = compare([], Sighting(found={A: "tmpfs"}))

    assert told == (Difference(kind="mount", subject="/a", expected=NOTHING, found="tmpfs", seq=0),)


def test_what_happened_to_a_stream_cites_it() -> None:
    found = {B: "pid 1", Thing("intruder", "container/c1 pid 9"): "sh"}
    told = compare([claim(B, "pid 1", seq=7)], Sighting(found=found))

    assert [(one.kind, one.seq) for one in told] == [("intruder", 7)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_firm_claim_outweighs_one_of_anything(order: int) -> None:
    claims = [claim(A, ANYTHING), claim(A, "tmpfs")][::order]

    assert [one.expected for one in compare(claims, Sighting(found={}))] == ["tmpfs"]


def test_a_claim_is_not_judged_where_what_it_rests_on_is_wrong() -> None:
    claims = [claim(B, "pid 1"), claim(A, "tmpfs", given=B)]

    assert [one.kind for one in compare(claims, Sighting(found={}))] == ["process"]
    assert [one.kind for one in compare(claims, Sighting(found={B: "pid 1"}))] == ["mount"]


def test_differences_of_rules_are_among_the_others_in_order() -> None:
    rule = Difference(kind="nftables", subject="chain guard", expected="", found="accept")
    told = compare([claim(B, "pid 1"), claim(A, "tmpfs")], Sighting(found={}, rules=(rule,)))

    assert [one.kind for one in told] == ["mount", "nftables", "process"]


def difference(seq: int = 7, found: str = "", expected: str = "tmpfs") -> Difference:
    return Difference(kind="mount", subject="/a", expected=expected, found=found, seq=seq)


@pytest.mark.parametrize(
    ("before", "now", "stays"),
    [
        (difference(), difference(), True),
        (difference(found="2 processes"), difference(found="3 processes"), True),
        (difference(seq=7), difference(seq=8), False),
        (difference(expected="tmpfs"), difference(expected="nsfs"), False),
        (difference(), None, False),
        (None, difference(), False),
    ],
)
def test_only_what_is_seen_twice_while_its_stream_stands_still_is_told(
    before: Difference | None, now: Difference | None, stays: bool
) -> None:
    told = confirmed([before] if before else [], [now] if now else [])

    assert told == ((now,) if stays else ())
