"""Old logs must decode to what they meant, for ever. The two files beside this one hold us to it.

``fingerprints.json`` has the fields of each version of each event type; ``golden.json`` has a record of each, as it was
stored, and what it must decode to. ``OCID_ACCEPT_NEW_EVENTS=1 pytest tests/events`` enters new types and new versions,
and never touches an entry that is there: those are in logs out in the world.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from ocid.events import codec, upcast
from ocid.events.base import REGISTRY, Event
from tests.events.samples import envelope, plain, sample

FINGERPRINTS = Path(__file__).with_name("fingerprints.json")
GOLDEN = Path(__file__).with_name("golden.json")
ACCEPT = os.environ.get("OCID_ACCEPT_NEW_EVENTS") == "1"
KINDS = sorted(name for name in REGISTRY if not name.startswith("test."))

assert codec.MODULES, "the codec imports every module of events, so the registry is full"


def describe(kind: type[msgspec.Struct]) -> str:
    """Write down what decoding depends on: names, types and defaults of fields, in their order."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    lines = []
    for field in info.fields:
        default = "required" if field.required else repr(field.default)
        lines.append(f"{field.encode_name}: {_type(field.type)} = {default}")
    return "\n".join(lines)


def _type(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return " | ".join(sorted(map(_type, types)))
        case inspect.VarTupleType(item_type=item):
            return f"tuple[{_type(item)}, ...]"
        case inspect.StructType(cls=cls):
            return f"{cls.__name__}({describe(cls)})"
    return repr(kind)


def fingerprint(kind: type[Event]) -> str:
    return hashlib.sha256(describe(kind).encode()).hexdigest()[:16]


def stored(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def accept(path: Path, name: str, version: int, entry: Any) -> dict[str, Any]:
    """Return the entries of *name*, with a new one for *version* if it is missing and we may add it."""
    everything = stored(path)
    entries = everything.setdefault(name, {})
    if str(version) not in entries and ACCEPT:
        entries[str(version)] = entry
        path.write_text(json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    assert str(version) in entries, (
        f"event type {name!r} version {version} is not in {path.name}: if it is new, run "
        "OCID_ACCEPT_NEW_EVENTS=1 pytest tests/events and commit the file"
    )
    return entries


@pytest.mark.parametrize("name", KINDS)
def test_fields_change_only_with_the_version(name: str) -> None:
    kind = REGISTRY[name]
    entries = accept(FINGERPRINTS, name, kind.VERSION, fingerprint(kind))

    assert entries[str(kind.VERSION)] == fingerprint(kind), (
        f"the fields of {name!r} changed, and its VERSION did not. Logs out in the world have version {kind.VERSION} "
        f"with other fields. Raise VERSION to {kind.VERSION + 1}, add the step ({name!r}, {kind.VERSION}) to "
        "ocid.events.upcast, and accept the new version. Its fields are now:\n" + describe(kind)
    )


@pytest.mark.parametrize("name", KINDS)
def test_golden_bytes_decode_to_the_same_for_ever(name: str) -> None:
    kind = REGISTRY[name]
    made = envelope(sample(kind))
    new = {"record": codec.encode(made).hex(), "event": plain(made.event)}

    for version, entry in accept(GOLDEN, name, kind.VERSION, new).items():
        decoded = codec.decode(bytes.fromhex(entry["record"]))

        assert type(decoded.event) is kind
        assert plain(decoded.event) == entry["event"]
        assert decoded == msgspec.structs.replace(made, type_version=int(version), event=decoded.event)


def test_every_event_that_ever_was_is_still_known() -> None:
    for path in (FINGERPRINTS, GOLDEN):
        for name, entries in stored(path).items():
            assert name in REGISTRY, f"event type {name!r} is gone, but logs have it: types are for ever"
            assert max(map(int, entries)) <= REGISTRY[name].VERSION, f"the version of {name!r} went back"


def test_every_old_version_has_its_steps() -> None:
    for name, kind in REGISTRY.items():
        for version in range(1, kind.VERSION):
            assert (name, version) in upcast.STEPS, f"no step for {name!r} from version {version} in ocid.events.upcast"


def test_new_fields_have_defaults_only_where_old_records_lack_them() -> None:
    """No omitted defaults: every field of every golden record is in its bytes."""
    for name, entries in stored(GOLDEN).items():
        entry = entries[str(REGISTRY[name].VERSION)]
        record = bytes.fromhex(entry["record"])
        length = int.from_bytes(record[1:3], "big")
        payload = msgspec.msgpack.decode(record[3 + length : -32])

        assert set(payload) == {field.encode_name for field in msgspec.structs.fields(REGISTRY[name])}
