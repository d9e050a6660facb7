"""The compiled stubs are the CRI v1 wire interface as ``proto/wire.tsv`` lists it: nothing missing, nothing extra."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from ocid.cri.stubs import api_grpc, api_pb2

Fact = tuple[str, ...]

TABLE = Path(__file__).parents[2] / "proto" / "wire.tsv"
PACKAGE = "runtime.v1"

STREAMING = {  # (client streams, server streams)
    (False, False): "unary",
    (False, True): "server-stream",
    (True, False): "client-stream",
    (True, True): "bidi-stream",
}


def test_stubs_hold_the_facts_of_the_table() -> None:
    """Also catches a table that was changed and stubs that were not."""
    listed, compiled = list(facts_listed()), list(facts_compiled())

    assert len(set(listed)) == len(listed), "the table lists a fact twice"
    assert not (report := diff(listed, compiled)), report


def test_package_and_syntax() -> None:
    file = described()

    assert (file.package, file.syntax) == (PACKAGE, "proto3")
    assert not file.dependency


def test_services_serve_the_rpcs_of_the_table() -> None:
    """The grpclib modules name paths, types and cardinality a second time."""
    listed = [fact for fact in facts_listed() if fact[0] == "rpc"]
    served = [*facts_served(api_grpc.RuntimeServiceBase), *facts_served(api_grpc.ImageServiceBase)]

    assert len(listed) == 41
    assert not (report := diff(listed, served)), report


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("remove", "listed, not compiled:\n  field\tPodIP\tip\t1\tstring\tsingle"),
        ("renumber", "compiled, not listed:\n  field\tPodIP\tip\t2\tstring\tsingle"),
        ("repeat", "compiled, not listed:\n  field\tPodIP\tip\t1\tstring\trepeated"),
        ("deprecate", "compiled, not listed:\n  field\tPodIP\tip\t1\tstring\tsingle\tdeprecated"),
        ("make optional", "compiled, not listed:\n  field\tPodIP\tip\t1\tstring\tsingle\toptional"),
        ("put into a oneof", "compiled, not listed:\n  field\tPodIP\tip\t1\tstring\tsingle\toneof:family"),
    ],
)
def test_a_difference_is_seen(change: str, complaint: str) -> None:
    file = described()
    message = next(message for message in file.message_type if message.name == "PodIP")
    field = message.field[0]
    match change:
        case "remove":
            del message.field[0]
        case "renumber":
            field.number = 2
        case "repeat":
            field.label = FieldDescriptorProto.LABEL_REPEATED
        case "deprecate":
            field.options.deprecated = True
        case "make optional":
            field.proto3_optional = True
        case "put into a oneof":
            message.oneof_decl.add(name="family")
            field.oneof_index = 0

    assert complaint in diff(facts_listed(), facts_compiled(file))


# --- What the table says ---


def facts_listed() -> Iterator[Fact]:
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            yield tuple(line.split("\t"))


# --- What the stubs say, in the words of the table ---


def described() -> FileDescriptorProto:
    file = FileDescriptorProto()
    api_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def facts_compiled(file: FileDescriptorProto | None = None) -> Iterator[Fact]:
    file = file or described()
    for service in file.service:
        yield from (rpc(service.name, method) for method in service.method)
    for enum in file.enum_type:
        yield from enum_facts(enum)
    for message in file.message_type:
        yield from message_facts(message)
    for extension in file.extension:
        yield "extension", extension.extendee, extension.name


def rpc(service: str, method: MethodDescriptorProto) -> Fact:
    kind = STREAMING[method.client_streaming, method.server_streaming]
    return "rpc", service, method.name, local(method.input_type), local(method.output_type), kind, *deprecated(method)


def enum_facts(enum: EnumDescriptorProto, prefix: str = "") -> Iterator[Fact]:
    for value in enum.value:
        yield "enum", prefix + enum.name, value.name, str(value.number), *deprecated(value)


def message_facts(message: DescriptorProto, prefix: str = "") -> Iterator[Fact]:
    name = prefix + message.name
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}

    yield "message", name, *deprecated(message)
    for field in message.field:
        entry = entries.get(field.type_name.rpartition(".")[2])
        yield "field", name, field.name, str(field.number), *shape(field, entry), *marks(field, message)
    for enum in message.enum_type:
        yield from enum_facts(enum, f"{name}.")
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from message_facts(nested, f"{name}.")


def shape(field: FieldDescriptorProto, entry: DescriptorProto | None) -> tuple[str, str]:
    if entry is not None:
        key, value = entry.field
        return f"{type_of(key)}>{type_of(value)}", "map"
    return type_of(field), "repeated" if field.label == FieldDescriptorProto.LABEL_REPEATED else "single"


def type_of(field: FieldDescriptorProto) -> str:
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{name}:{local(field.type_name)}" if field.type_name else name


def marks(field: FieldDescriptorProto, message: DescriptorProto) -> Iterator[str]:
    if field.proto3_optional:
        yield "optional"
    elif field.HasField("oneof_index"):
        yield f"oneof:{message.oneof_decl[field.oneof_index].name}"
    if field.options.HasField("packed"):  # the default is the wire's
        yield f"packed:{field.options.packed}"
    yield from deprecated(field)


def deprecated(described: Any) -> Iterator[str]:
    if described.options.deprecated:
        yield "deprecated"


def local(name: str) -> str:
    assert name.startswith(f".{PACKAGE}."), name
    return name.removeprefix(f".{PACKAGE}.")


def facts_served(base: type) -> Iterator[Fact]:
    """Reads the mapping from paths to handlers that grpclib's server works by."""
    methods = {name: None for name, _ in inspect.getmembers(base, inspect.iscoroutinefunction)}
    service: Any = type("Service", (base,), methods)()
    for path, handler in service.__mapping__().items():
        _, qualified, method = path.split("/")
        kind = STREAMING[handler.cardinality.client_streaming, handler.cardinality.server_streaming]
        types = (local(f".{cls.DESCRIPTOR.full_name}") for cls in (handler.request_type, handler.reply_type))
        yield "rpc", local(f".{qualified}"), method, *types, kind


# --- The difference ---


def diff(listed: Iterable[Fact], compiled: Iterable[Fact]) -> str:
    """Empty when both hold the same facts, in whatever order."""
    listed, compiled = set(listed), set(compiled)
    sides = [("listed, not compiled", listed - compiled), ("compiled, not listed", compiled - listed)]
    return "\n".join(
        f"{title}:\n" + "".join(f"  {fact}\n" for fact in sorted(map("\t".join, facts)))
        for title, facts in sides
        if facts
    )
