"""The small checks that ``ocid.cri.validate`` is made of. Each raises InvalidRequest and names the field.

Source: Linux limits.h, path_resolution(7); CRI v1.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Protocol

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ocid.errors import InvalidRequest

PATH_BYTES_MAX: Final = 4096  # PATH_MAX, with the NUL at the end
NAME_BYTES_MAX: Final = 255  # NAME_MAX, of one part of a path
ID_BYTES_MAX: Final = 256  # ours are 64; a caller may try a name
IMAGE_BYTES_MAX: Final = 4096  # the longest reference registries take is 255 + 128 + 72
METADATA_BYTES_MAX: Final = 1024 * 1024  # labels or annotations; Kubernetes stops at 256 KiB of annotations
SHOWN_MAX: Final = 100  # characters of a value in a message

_ZONE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # IFNAMSIZ, without what shells and rules might take for more


class _ImageSpec(Protocol):
    @property
    def image(self) -> str: ...
    @property
    def annotations(self) -> Mapping[str, str]: ...
    @property
    def user_specified_image(self) -> str: ...
    @property
    def runtime_handler(self) -> str: ...
    @property
    def image_ref(self) -> str: ...


def present(message: Message, field: str, where: str) -> None:
    """*field*, a message, must be there."""
    if not message.HasField(field):
        raise InvalidRequest(f"{where}{field} is missing")


def filled(value: str, field: str, limit: int) -> None:
    """*value* must not be empty, nor longer than *limit* bytes of UTF-8."""
    if not value:
        raise InvalidRequest(f"{field} is empty")
    short(value, field, limit)


def short(value: str, field: str, limit: int) -> None:
    """*value* may be empty, but not longer than *limit* bytes of UTF-8."""
    size = len(value.encode())
    if size > limit:
        raise InvalidRequest(f"{field} is {size} bytes, the limit is {limit}")


def line(value: str, field: str, limit: int) -> None:
    """*value* may be empty; it has no control characters, for it is written into files and shown on terminals."""
    short(value, field, limit)
    if not value.isprintable() and any(unicodedata.category(one) == "Cc" for one in value):
        raise InvalidRequest(f"{field} is {value[:SHOWN_MAX]!r}, wanted it without control characters")


def name(value: str, field: str, limit: int) -> None:
    """*value* is a line that is not empty."""
    filled(value, field, limit)
    line(value, field, limit)


def secret(value: str, field: str, limit: int) -> None:
    """As ``line``, but the value is never shown: what goes into a header must not begin another one."""
    short(value, field, limit)
    if any(unicodedata.category(one) == "Cc" for one in value):
        raise InvalidRequest(f"{field} holds a control character")


def ip_address(value: str, field: str, *, zone: bool = False) -> None:
    """*value* must be an IPv4 or IPv6 address, the latter with a zone, an interface's name, only if *zone* is set."""
    address, percent, interface = value.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidRequest(f"{field} is {value[:SHOWN_MAX]!r}, wanted an IP address") from None
    if percent and not (zone and ":" in address and _ZONE.fullmatch(interface)):
        raise InvalidRequest(f"{field} is {value[:SHOWN_MAX]!r}, wanted an IP address without a zone")


def labels(pairs: Mapping[str, str], field: str) -> None:
    """Labels or annotations: no key is empty, and all together are not too much."""
    if "" in pairs:
        raise InvalidRequest(f"{field} has an empty key")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in pairs.items())
    within(size, f"size of {field} in bytes", 0, METADATA_BYTES_MAX)


def image(spec: _ImageSpec, where: str) -> None:
    """*spec*, an ImageSpec at the path *where*, must name an image, and nothing in it may be huge."""
    name(spec.image, f"{where}image", IMAGE_BYTES_MAX)
    labels(spec.annotations, f"{where}annotations")
    for field in ("user_specified_image", "runtime_handler", "image_ref"):
        line(getattr(spec, field), f"{where}{field}", IMAGE_BYTES_MAX)


def at_most(count: int, field: str, limit: int) -> None:
    """There may be *limit* of *field*."""
    if count > limit:
        raise InvalidRequest(f"{field} has {count} entries, the limit is {limit}")


def within(value: int, field: str, low: int, high: int) -> None:
    """*value* must be from *low* to *high*, both included."""
    if not low <= value <= high:
        raise InvalidRequest(f"{field} is {value}, wanted {low} to {high}")


def absolute_path(value: str, field: str) -> None:
    """*value* must be an absolute path without ".."."""
    if not value.startswith("/") or ".." in value.split("/"):
        raise InvalidRequest(f"{field} is {value[:SHOWN_MAX]!r}, wanted an absolute path without '..'")
    short(value, field, PATH_BYTES_MAX - 1)


def relative_path(value: str, field: str) -> None:
    """*value* must be a path that stays below where it starts."""
    if value.startswith("/") or ".." in value.split("/"):
        raise InvalidRequest(f"{field} is {value[:SHOWN_MAX]!r}, wanted a relative path without '..'")
    short(value, field, PATH_BYTES_MAX - 1)


def plain(message: Message, where: str = "") -> None:
    """No text anywhere in *message* holds NUL, which the kernel would cut it at, and no enum has an unknown value."""
    for field, value in message.ListFields():
        path = f"{where}{field.name}"
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            for key, item in value.items():
                _plain_value(entry.fields_by_name["key"], key, path)
                _plain_value(entry.fields_by_name["value"], item, f"{path}[{str(key)[:SHOWN_MAX]!r}]")
        elif isinstance(value, (str, bytes, int, float, Message)):
            _plain_value(field, value, path)
        else:
            for index, item in enumerate(value):
                _plain_value(field, item, f"{path}[{index}]")


def _plain_value(field: FieldDescriptor, value: Any, path: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(f"{path} holds a NUL byte")
    elif isinstance(value, Message):
        plain(value, f"{path}.")
    elif field.enum_type is not None and value not in field.enum_type.values_by_number:
        raise InvalidRequest(f"{path} has value {value}, which CRI v1 does not know")
