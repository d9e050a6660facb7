"""One made-up value of every type an event's field may have, always the same, and hypothesis strategies for the same.

Golden bytes are made from these; so never change what ``sample`` returns for a type.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from ocid.events.base import Event
from ocid.events.envelope import Context, Envelope
from ocid.ids import StreamId

BOOT_ID = "8d2f6c1e-0b7a-4c55-9a3e-5f10c2d4e6b8"
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_INT = st.integers(-(2**63), 2**64 - 1)


def sample(kind: type[Event]) -> Event:
    """Return an event with a value in every field."""
    return kind(**{field.name: _value(field.name, field.type) for field in _fields(kind)})


def events(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of this type that fits a record."""
    return st.builds(kind, **{field.name: _strategy(field.type) for field in _fields(kind)})


def envelope(event: Event, seq: int = 7) -> Envelope:
    """Return *event* in an envelope with a value in every field."""
    return Envelope(
        seq=seq,
        stream=StreamId("pod/3f2c"),
        version=3,
        type=event.TYPE,
        type_version=event.VERSION,
        wall_ns=1_763_956_800_123_456_789,
        boot_ns=86_400_000_000_001,
        boot_id=BOOT_ID,
        epoch=2,
        context=Context(who=5, correlation="c0ffee", cause=6, command_id="RunPodSandbox/x"),
        event=event,
    )


def _fields(kind: type[Event]) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return described.fields


def _value(name: str, kind: inspect.Type) -> Any:
    match kind:
        case inspect.StrType():
            return f"{name} é"
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1000 + len(name)
        case inspect.FloatType():
            return 0.5
        case inspect.BytesType():
            return name.encode()
        case inspect.VarTupleType(item_type=item):
            return (_value(name, item), _value(name + "2", item))
        case inspect.TupleType(item_types=items):
            return tuple(_value(name, item) for item in items)
        case inspect.DictType(key_type=key, value_type=value):
            return {_value(name, key): _value(name, value)}
        case inspect.UnionType(types=types):
            return _value(name, next(each for each in types if not isinstance(each, inspect.NoneType)))
        case inspect.StructType(cls=cls, fields=fields):
            return cls(**{field.name: _value(field.name, field.type) for field in fields})
        case inspect.EnumType(cls=cls):
            return next(iter(cls))
    raise AssertionError(f"field {name!r} has a type that no sample is known for: {kind}; add it here")


def _strategy(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StrType():
            return _TEXT
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return _INT
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.BytesType():
            return st.binary(max_size=40)
        case inspect.NoneType():
            return st.none()
        case inspect.VarTupleType(item_type=item):
            return st.lists(_strategy(item), max_size=3).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(_strategy, items))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_strategy(key), _strategy(value), max_size=3)
        case inspect.UnionType(types=types):
            return st.one_of(*map(_strategy, types))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _strategy(field.type) for field in fields})
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))
    raise AssertionError(f"no strategy for {kind}; add it here")


def plain(event: Event) -> Any:
    """Return the event's fields as JSON has them."""
    return msgspec.json.decode(msgspec.json.encode(event))
