"""Protobuf to our configs and back: nothing is lost, every enum value and every field of the wire has a place."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ocid.cri import translate
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import configs as c
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec import signals
from ocid.domain.spec.signals import signal_number
from ocid.domain.spec.users import ProcessUser
from ocid.errors import InvalidRequest

NOT_OURS = {"windows", "uidMappings", "gidMappings", "CDI_devices"}  # Windows; and names that we spell in snake case


def filled(message: Message, depth: int = 0) -> Message:
    """*message* with every field set to something that is not its default."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "windows":
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["kéy\n"] = "válue"
        elif field.message_type is not None:
            part = getattr(message, field.name)
            filled(part.add() if field.is_repeated else part, depth + 1)
            if not field.is_repeated:
                part.SetInParent()
        else:
            _fill_scalar(message, field)
    return message


def _fill_scalar(message: Message, field: FieldDescriptor) -> None:
    value: Any = 1
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        value = b"\xff" if field.type == FieldDescriptor.TYPE_BYTES else f"text of {field.name}"
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        value = True
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        value = 1
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def defaults_in(config: Any, where: str) -> list[str]:
    """The fields of a struct that still have their default, all the way down."""
    found = []
    for name, default in zip(config.__struct_fields__[::-1], config.__struct_defaults__[::-1], strict=False):
        value = getattr(config, name)
        if isinstance(value, tuple) and value and hasattr(value[0], "__struct_fields__"):
            value = value[0]
        if hasattr(value, "__struct_fields__"):
            found += defaults_in(value, f"{where}.{name}")
        elif value == default:
            found.append(f"{where}.{name}")
    return found


def test_no_field_of_the_wire_is_forgotten() -> None:
    pod, container = pb.PodSandboxConfig(), pb.ContainerConfig()
    filled(pod)
    filled(container)

    assert defaults_in(translate.pod_config(pod), "pod") == []
    assert defaults_in(translate.container_config(container), "container") == []


@pytest.mark.parametrize(
    ("message", "struct"),
    [
        (pb.PodSandboxConfig, c.PodConfig),
        (pb.LinuxPodSandboxConfig, c.LinuxPodConfig),
        (pb.LinuxSandboxSecurityContext, c.PodSecurityContext),
        (pb.ContainerConfig, c.ContainerConfig),
        (pb.LinuxContainerSecurityContext, c.ContainerSecurityContext),
        (pb.LinuxContainerResources, c.LinuxResources),
        (pb.Mount, c.Mount),
        (pb.NamespaceOption, c.NamespaceOptions),
        (pb.ImageSpec, c.ImageSpec),
        (pb.Device, c.Device),
        (pb.PortMapping, c.PortMapping),
        (pb.Capability, c.CapabilityChanges),
    ],
)
def test_names_are_those_of_the_wire(message: type[Message], struct: Any) -> None:
    wire = {field.name for field in message.DESCRIPTOR.fields} - NOT_OURS

    assert wire <= set(struct.__struct_fields__)


def test_empty_messages_are_our_defaults() -> None:
    assert translate.pod_config(pb.PodSandboxConfig()) == c.PodConfig()
    assert translate.container_config(pb.ContainerConfig()) == c.ContainerConfig()


def test_absence_is_told_from_zero() -> None:
    message = pb.ContainerConfig()
    message.linux.security_context.run_as_user.value = 0
    message.linux.resources.SetInParent()
    config = translate.container_config(message)

    assert config.linux.security_context.run_as_user == 0
    assert config.linux.security_context.run_as_group is None
    assert config.linux.resources == c.LinuxResources()


def test_echoes_give_back_what_came() -> None:
    mount, resources, options = pb.Mount(), pb.LinuxContainerResources(), pb.NamespaceOption()
    spec, metadata = pb.ImageSpec(), pb.PodSandboxMetadata()
    for message in (mount, resources, options, spec, metadata):
        filled(message)

    assert translate.mount_to_pb(translate.mount(mount)) == mount
    assert translate.linux_resources_to_pb(translate.linux_resources(resources)) == resources
    assert translate.namespace_options_to_pb(translate.namespace_options(options)) == options
    assert translate.image_spec_to_pb(translate.image_spec(spec)) == spec
    assert translate.pod_metadata_to_pb(translate.pod_metadata(metadata)) == metadata
    assert translate.resources_to_pb(None) is None
    assert not translate.mount_to_pb(c.Mount()).HasField("image")
    assert translate.container_metadata_to_pb(c.ContainerMetadata(name="a", attempt=2)).attempt == 2
    user = translate.user_to_pb(ProcessUser(uid=1, gid=2, additional_gids=(2, 3)))
    assert list(user.linux.supplemental_groups) == [2, 3]


@pytest.mark.parametrize("number", pb.Signal.values())
def test_every_cri_signal_has_a_number_and_comes_back(number: int) -> None:
    name = translate.signal_name(number)

    assert translate.signal_to_pb(name) == number
    if name:
        assert 1 <= signal_number(name) <= 64


@pytest.mark.parametrize("number", [one for one in range(1, 65) if one not in (32, 33)])
def test_every_signal_of_linux_has_a_name_that_cri_has(number: int) -> None:
    """An image may name a signal by its number, and ContainerStatus tells it by CRI's name."""
    name = signals.signal_name(number)

    assert signal_number(name) == number
    assert translate.signal_name(translate.signal_to_pb(name)) == name


@pytest.mark.parametrize("number", ["32", "33"])
def test_signals_of_the_c_library_have_no_name_and_count_as_none(number: str) -> None:
    with pytest.raises(InvalidRequest):
        signal_number(number)
    assert signals.stop_signal(c.ContainerConfig(), ImageConfig(stop_signal=number)) == signals.SIGTERM


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        (pb.NamespaceMode, c.NamespaceMode),
        (pb.MountPropagation, c.MountPropagation),
        (pb.Protocol, c.Protocol),
        (pb.SupplementalGroupsPolicy, c.SupplementalGroupsPolicy),
        (pb.SecurityProfile.ProfileType, c.ProfileType),
    ],
)
def test_enums_have_the_same_names(wire: Any, ours: Any) -> None:
    assert list(wire.keys()) == [member.value for member in ours]


def test_unknown_enum_values_are_refused() -> None:
    message = pb.ContainerConfig(stop_signal=999)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="stop_signal has value 999"):
        translate.container_config(message)
    with pytest.raises(InvalidRequest, match="propagation"):
        translate.mount(pb.Mount(propagation=9))  # type: ignore[arg-type]
