"""Who a container runs as, also when the image lies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid.domain.configs import ContainerSecurityContext, SupplementalGroupsPolicy
from ocid.domain.spec.users import ID_MAX, LINE_BYTES_MAX, LINES_MAX, parse_group, parse_passwd, resolve_user
from ocid.errors import InvalidRequest
from tests.domain.spec.builders import GROUP, PASSWD

STRICT = SupplementalGroupsPolicy.STRICT


@pytest.mark.parametrize(
    ("security", "image_user", "expected"),
    [
        ({}, "", (0, 0, (0,))),
        ({}, "web", (33, 33, (33, 0, 44))),
        ({}, "33", (33, 33, (33, 0, 44))),
        ({}, "4242", (4242, 0, (0,))),
        ({}, "web:logs", (33, 44, (44, 0, 33))),
        ({}, "1:2", (1, 2, (2,))),
        ({}, ":44", (0, 44, (44,))),
        ({"run_as_user": 1000}, "web", (1000, 1000, (1000, 44))),
        ({"run_as_user": 1000, "run_as_group": 7}, "", (1000, 7, (7, 44))),
        ({"run_as_user": 5}, "web", (5, 0, (0,))),
        ({"run_as_username": "app"}, "web", (1000, 1000, (1000, 44))),
        ({"run_as_user": 1000, "supplemental_groups": (9, 44)}, "", (1000, 1000, (1000, 44, 9))),
        (
            {"run_as_user": 1000, "supplemental_groups": (9,), "supplemental_groups_policy": STRICT},
            "",
            (1000, 1000, (1000, 9)),
        ),
    ],
)
def test_user_is_resolved(
    security: dict[str, Any], image_user: str, expected: tuple[int, int, tuple[int, ...]]
) -> None:
    group = GROUP.replace(b"root:x:0:", b"root:x:0:web")
    user = resolve_user(ContainerSecurityContext(**security), image_user, PASSWD, group)

    assert (user.uid, user.gid, user.additional_gids) == expected


@pytest.mark.parametrize(
    ("security", "image_user", "says"),
    [
        ({}, "nobody-here", "image user"),
        ({}, "web:nogroup", "image group"),
        ({"run_as_username": "ghost"}, "", "run_as_username"),
        ({"run_as_group": 1}, "web", "run_as_group"),
        ({"run_as_user": -1}, "", "run_as_user"),
        ({"run_as_user": 2**31}, "", "run_as_user"),
        ({"supplemental_groups": (-1,)}, "", "supplemental_groups"),
        ({}, "+1", "image user"),
        ({}, "99999999999", "image user"),
    ],
)
def test_impossible_users_are_refused(security: dict[str, Any], image_user: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        resolve_user(ContainerSecurityContext(**security), image_user, PASSWD, GROUP)


def test_bad_lines_are_skipped() -> None:
    raw = (
        b"\n#x:x:1:1\nshort:x\nneg:x:-1:0::\nbig:x:99999999999:0\nund:x:1_0:0\n:x:1:1\n\xff\xfe:x:7:8::/h\nok:x:5:6\n"
        + b"+::::::\n"
    )

    assert [(one.uid, one.gid) for one in parse_passwd(raw)] == [(7, 8), (5, 6)]
    assert parse_group(b"g:x:5:a, b,,c\nbroken\n")[0].members == ("a", "b", "c")


def test_files_are_bounded() -> None:
    assert len(parse_passwd(b"u:x:1:1\n" * (LINES_MAX + 10))) == LINES_MAX
    assert parse_passwd(b"a" * (LINE_BYTES_MAX + 1) + b":x:1:1\nok:x:2:2")[0].name == "ok"


@given(passwd=st.binary(max_size=300), group=st.binary(max_size=300), user=st.text(max_size=20))
def test_hostile_files_give_a_user_or_a_refusal(passwd: bytes, group: bytes, user: str) -> None:
    try:
        found = resolve_user(ContainerSecurityContext(), user, passwd, group)
    except InvalidRequest:
        return
    assert 0 <= found.uid <= ID_MAX
    assert found.additional_gids[0] == found.gid
