"""Every error has its gRPC status, and exactly one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from grpclib.const import Status

import ocid
from ocid import errors
from ocid.cri.status import MESSAGE_BYTES_MAX, STATUS_OF, shortened, to_grpc
from ocid.errors import OcidError


def ours(kind: type[OcidError]) -> list[type[OcidError]]:
    return [child for child in kind.__subclasses__() if child.__module__.startswith("ocid.")]


def leaves(kind: type[OcidError]) -> Iterator[type[OcidError]]:
    """The classes of the daemon below *kind* that have none below them; tools have others of their own."""
    for child in ours(kind):
        yield from leaves(child) if ours(child) else (child,)


def test_every_leaf_has_a_status_wherever_it_is_defined() -> None:
    for module in pkgutil.walk_packages(ocid.__path__, "ocid."):
        importlib.import_module(module.name)

    assert set(leaves(OcidError)) == STATUS_OF.keys()


def test_the_tree_is_flat() -> None:
    """``errors.revive`` finds an error by name among the direct children only."""
    assert set(ours(OcidError)) == set(leaves(OcidError))


def test_no_two_errors_look_the_same_to_a_caller() -> None:
    assert len(set(STATUS_OF.values())) == len(STATUS_OF)
    assert Status.OK not in STATUS_OF.values()
    assert Status.INTERNAL not in STATUS_OF.values(), "kept for bugs"


@pytest.mark.parametrize("kind", STATUS_OF, ids=lambda kind: kind.__name__)
def test_the_message_of_an_error_is_what_the_caller_reads(kind: type[OcidError]) -> None:
    error = to_grpc(errors.revive(kind.__name__, "disk 'sda' is full, not empty"))

    assert (error.status, error.message) == (STATUS_OF[kind], "disk 'sda' is full, not empty")


@pytest.mark.parametrize("text", ["x" * 100_000, "☃" * 50_000, "a" * MESSAGE_BYTES_MAX + "b"])
def test_a_message_that_no_header_holds_loses_its_middle(text: str) -> None:
    message = to_grpc(errors.InvalidRequest(f"begin {text} end")).message or ""

    assert len(message.encode()) <= MESSAGE_BYTES_MAX + 10
    assert message.startswith("begin ")
    assert message.endswith(" end")
    assert shortened("short") == "short"


def test_what_the_kubelet_looks_for() -> None:
    assert STATUS_OF[errors.NotFound] is Status.NOT_FOUND
    assert STATUS_OF[errors.Unsupported] is Status.UNIMPLEMENTED
    assert STATUS_OF[errors.TimedOut] is Status.DEADLINE_EXCEEDED
    assert STATUS_OF[errors.EffectFailed] is Status.UNKNOWN
