"""Every field that is written down says how sensitive it is, and none is secret."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import pytest

from ocid.classes import DataClass, Public, Secret, Sensitive, classes_of
from ocid.config import Config
from ocid.domain.configs import ContainerConfig, LinuxResources, PodConfig
from ocid.domain.nri import Change
from ocid.domain.nri_limits import WiderResources
from ocid.events import codec
from ocid.events.base import REGISTRY
from ocid.ids import Digest
from ocid.ports import Credentials

assert codec.MODULES, "the codec imports every module of events, so the registry is full"
EVENTS = [kind for name, kind in sorted(REGISTRY.items()) if not name.startswith("test.")]
DOCUMENTS = [Config, PodConfig, ContainerConfig, WiderResources, Change]  # all that are of a type of ours


@pytest.mark.parametrize("kind", [*EVENTS, *DOCUMENTS], ids=lambda kind: getattr(kind, "TYPE", "") or kind.__name__)
def test_every_field_says_its_class_and_none_is_secret(kind: type[msgspec.Struct]) -> None:
    classes = classes_of(kind)

    unsaid = [name for name, one in classes.items() if one is None]
    assert not unsaid, f"say how sensitive these are, by Public or Sensitive instead of str: {unsaid}"
    assert [name for name, one in classes.items() if one is DataClass.SECRET] == []


def test_what_people_and_tools_say_is_sensitive() -> None:
    names = {"message", "reason", "argv_brief", "audit_hints"}
    for kind in EVENTS:
        for name, one in classes_of(kind).items():
            assert one is DataClass.SENSITIVE or name not in names, f"{kind.TYPE}.{name}"


def test_credentials_are_secret() -> None:
    assert set(classes_of(Credentials).values()) == {DataClass.SECRET}


def test_configurations_are_sensitive_and_limits_are_not() -> None:
    for kind, name in ((ContainerConfig, "envs"), (ContainerConfig, "args"), (PodConfig, "annotations")):
        assert classes_of(kind)[name] is DataClass.SENSITIVE
    assert set(classes_of(LinuxResources).values()) == {DataClass.PUBLIC}
    assert classes_of(Config)["containers"] is DataClass.SENSITIVE


class Inner(msgspec.Struct):
    one: Secret


class Shapes(msgspec.Struct):
    plain: str
    raw: bytes
    many: tuple[str, ...]
    mixed: dict[Public, str]
    said: Annotated[bytes, DataClass.SENSITIVE]
    optional: Sensitive | None
    number: int
    digest: Digest | None
    nested: tuple[Inner, ...]


class Defaulted(msgspec.Struct):
    DATA: ClassVar[DataClass] = DataClass.SENSITIVE
    plain: str
    public: tuple[Public, ...]


def test_the_most_sensitive_part_counts_and_silence_is_noticed() -> None:
    assert classes_of(Shapes) == {
        "plain": None,
        "raw": None,
        "many": None,
        "mixed": None,
        "said": DataClass.SENSITIVE,
        "optional": DataClass.SENSITIVE,
        "number": DataClass.PUBLIC,
        "digest": DataClass.PUBLIC,
        "nested": DataClass.SECRET,
    }
    assert classes_of(Defaulted) == {"plain": DataClass.SENSITIVE, "public": DataClass.PUBLIC}
