"""What tests of registries share: two registries, a client, and images for them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocid.adapters import registry as adapter
from ocid.adapters.registry import HttpRegistry, RegistrySettings
from ocid.domain.manifest import host_platform
from ocid.ports import Credentials, LayerBlob
from tests import images
from tests.registry import Registry, registry

ONE_LAYER = images.image([images.files(hello=b"world")])
LARGE = images.image([images.files(large=os.urandom(600_000))], packings=[""])
SECRET = "hunter2-secret"
ALICE = Credentials(username="alice", password=SECRET)


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Registry]:
    with registry() as one:
        yield one


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "BACK_OFF_S", (0.001,))


@pytest.fixture
async def client() -> AsyncIterator[HttpRegistry]:
    one = client_of()
    yield one
    await one.close()


def client_of(settings: dict[str, RegistrySettings] | None = None, **more: Any) -> HttpRegistry:
    return HttpRegistry(settings, **{"host": host_platform("x86_64"), "stall_s": 5.0, **more})


def no_progress(_: int) -> None:
    pass


async def fetch(client: HttpRegistry, reference: str, blob: LayerBlob, into: Path, **more: Any) -> None:
    await client.fetch(reference, more.get("credentials"), blob, into, more.get("progress", no_progress))
