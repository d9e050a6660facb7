"""How sensitive what is written down is, said in the types: ``Public`` and ``Sensitive`` stand where ``str`` would.

public     names, ids, digests, numbers, our own words: what whoever may know of the node's pods may read
sensitive  words of people, tools and clients, after redaction, and what they configured: for those who look into a
           case; what is large or detailed of it is confidential, see ``ocid.domain.confidential``
secret     what opens something: never in an event or a document, which a test sees to

A structure's ``DATA`` is the class of those of its texts that do not say another one.
"""

from __future__ import annotations

import types
import typing
from enum import Enum, StrEnum
from typing import Annotated, Any

import msgspec


class DataClass(StrEnum):
    """Least sensitive first."""

    PUBLIC = "public"
    SENSITIVE = "sensitive"
    SECRET = "secret"  # noqa: S105 - the name of a class, not one of its members


Public = Annotated[str, DataClass.PUBLIC]
Sensitive = Annotated[str, DataClass.SENSITIVE]
Secret = Annotated[str, DataClass.SECRET]

_ORDER = list(DataClass)


def classes_of(struct: type[msgspec.Struct]) -> dict[str, DataClass | None]:
    """Return the class of each field: of its most sensitive part, None where one does not say which it is."""
    hints = typing.get_type_hints(struct, include_extras=True)
    default: DataClass | None = getattr(struct, "DATA", None)
    return {name: _class_of(hints[name], default) for name in struct.__struct_fields__}


def _class_of(hint: Any, default: DataClass | None) -> DataClass | None:
    if typing.get_origin(hint) is Annotated:
        inner, *said = typing.get_args(hint)
        return next((one for one in said if isinstance(one, DataClass)), None) or _class_of(inner, default)
    if isinstance(hint, typing.NewType) or hint in (int, float, bool, None, type(None), Ellipsis):
        return DataClass.PUBLIC  # ids, digests, numbers
    if isinstance(hint, type) and issubclass(hint, Enum):
        return DataClass.PUBLIC
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _most(classes_of(hint).values())
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return DataClass.PUBLIC
    if origin in (tuple, list, dict, types.UnionType, typing.Union):
        return _most(_class_of(one, default) for one in typing.get_args(hint))
    return default


def _most(found: typing.Iterable[DataClass | None]) -> DataClass | None:
    said = list(found)
    return None if None in said else max(said, key=_ORDER.index, default=DataClass.PUBLIC)  # type: ignore[arg-type]
