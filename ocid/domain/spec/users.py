"""Which user a container runs as, from the CRI config, the image and the image's own account files.

The account files come out of the image, so they are hostile input: only the first ``FILE_BYTES_MAX`` bytes and
``LINES_MAX`` lines are looked at, and a line that is not an account is skipped.

Source: CRI LinuxContainerSecurityContext.run_as_user and below; OCI image-spec config.md "User"; passwd(5), group(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from ocid.domain.configs import ContainerSecurityContext, SupplementalGroupsPolicy
from ocid.errors import InvalidRequest

FILE_BYTES_MAX: Final = 4 * 1024 * 1024  # of /etc/passwd or /etc/group; images with LDAP dumps stay below 1 MiB
LINES_MAX: Final = 65_536  # of either file
LINE_BYTES_MAX: Final = 64 * 1024  # groups with thousands of members do exist
ID_MAX: Final = 2**31 - 1  # the kernel takes 32 bits, but -1 is "none" and Kubernetes stops at 2^31 - 1
GROUPS_MAX: Final = 65_536  # NGROUPS_MAX, limits.h


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


class ProcessUser(msgspec.Struct, frozen=True, kw_only=True):
    """Who a process is. OCI config.md "User"; CRI LinuxContainerUser."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()  # the primary group first: CVE-2022-36109
    name: str = ""  # empty when the uid has no account in the image
    home: str = ""


def parse_passwd(raw: bytes) -> tuple[Account, ...]:
    """The accounts of an /etc/passwd file; lines that are none are skipped."""
    accounts = []
    for fields in _lines(raw):
        if len(fields) < 4:
            continue
        uid, gid = _id(fields[2]), _id(fields[3])
        if fields[0] and uid is not None and gid is not None:
            accounts.append(Account(name=fields[0], uid=uid, gid=gid, home=fields[5] if len(fields) > 5 else ""))
    return tuple(accounts)


def parse_group(raw: bytes) -> tuple[Group, ...]:
    """The groups of an /etc/group file; lines that are none are skipped."""
    groups = []
    for fields in _lines(raw):
        gid = _id(fields[2]) if len(fields) > 2 else None
        if fields[0] and gid is not None:
            members = fields[3].split(",") if len(fields) > 3 else []
            groups.append(Group(name=fields[0], gid=gid, members=tuple(filter(None, map(str.strip, members)))))
    return tuple(groups)


def resolve_user(security: ContainerSecurityContext, image_user: str, passwd: bytes, group: bytes) -> ProcessUser:
    """Who the container's process is.

    The user is run_as_user, else run_as_username, else the image's; the group is run_as_group, else the one that the
    image names beside its user, else the account's, else 0. Under the Merge policy the groups that list the account
    in the image's /etc/group come on top of the supplemental_groups asked for; under Strict they do not.

    Raises:
        InvalidRequest: a user or group name is not in the image, an id is out of range, or run_as_group stands alone.
    """
    accounts, groups = parse_passwd(passwd), parse_group(group)
    if security.run_as_group is not None and security.run_as_user is None and not security.run_as_username:
        raise InvalidRequest("run_as_group is set, wanted run_as_user or run_as_username beside it")
    if security.run_as_user is not None:
        user = _account_of_uid(_checked_id(security.run_as_user, "run_as_user"), accounts)
    elif security.run_as_username:
        user = _account_of_name(security.run_as_username, "run_as_username", accounts)
    else:
        user = _image_user(image_user, accounts, groups)
    gid = user.gid if security.run_as_group is None else _checked_id(security.run_as_group, "run_as_group")
    asked = [_checked_id(one, "supplemental_groups") for one in security.supplemental_groups]
    merges = security.supplemental_groups_policy is SupplementalGroupsPolicy.MERGE
    own = [one.gid for one in groups if merges and user.name and user.name in one.members]
    additional = tuple(dict.fromkeys([gid, *own, *asked]))[:GROUPS_MAX]
    return ProcessUser(uid=user.uid, gid=gid, additional_gids=additional, name=user.name, home=user.home)


def _image_user(text: str, accounts: tuple[Account, ...], groups: tuple[Group, ...]) -> ProcessUser:
    """Read the image's ``user[:group]``; each part is a name or a number, and a name that exists wins."""
    user_text, _, group_text = text.partition(":")
    user = _account_of_name(user_text, "image user", accounts) if user_text else _account_of_uid(0, accounts)
    if not group_text:
        return user
    named = next((one.gid for one in groups if one.name == group_text), None)
    gid = named if named is not None else _id(group_text)
    if gid is None:
        raise InvalidRequest(f"image group {group_text[:64]!r} is neither in the image's /etc/group nor a number")
    return msgspec.structs.replace(user, gid=gid)


def _account_of_name(text: str, what: str, accounts: tuple[Account, ...]) -> ProcessUser:
    for account in accounts:
        if account.name == text:
            return ProcessUser(uid=account.uid, gid=account.gid, name=account.name, home=account.home)
    uid = _id(text)
    if uid is None:
        raise InvalidRequest(f"{what} {text[:64]!r} is neither in the image's /etc/passwd nor a number")
    return _account_of_uid(uid, accounts)


def _account_of_uid(uid: int, accounts: tuple[Account, ...]) -> ProcessUser:
    """The first account of *uid*; without one the group is 0, as in Docker."""
    for account in accounts:
        if account.uid == uid:
            return ProcessUser(uid=uid, gid=account.gid, name=account.name, home=account.home)
    return ProcessUser(uid=uid)


def _checked_id(value: int, what: str) -> int:
    if not 0 <= value <= ID_MAX:
        raise InvalidRequest(f"{what} is {value}, wanted 0 to {ID_MAX}")
    return value


def _id(text: str) -> int | None:
    """A decimal id, or None; ``int()`` alone would take "1_0", "+1" and other alphabets' digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= ID_MAX else None


def _lines(raw: bytes) -> Iterator[list[str]]:
    """The colon-separated fields of each line that is not a comment; binary rubbish is replaced, not refused."""
    for line in raw[:FILE_BYTES_MAX].split(b"\n", LINES_MAX)[:LINES_MAX]:
        if len(line) > LINE_BYTES_MAX:
            continue
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("#"):
            yield [field.strip() for field in text.split(":")]
