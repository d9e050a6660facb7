"""Bundles: config.json, and the marks that a create leaves in them for a later life of the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from ocid.errors import EffectFailed
from ocid.ports import ContainerOrder


class _Linux(msgspec.Struct, rename="camel"):
    intel_rdt: msgspec.Raw | None = None


class _Hooked(msgspec.Struct):
    """What of a bundle's config.json makes more than the state directory and cgroups belong to a container."""

    hooks: msgspec.Raw | None = None
    linux: _Linux = msgspec.field(default_factory=_Linux)


def is_plain(order: ContainerOrder) -> bool:
    """Say whether nothing of a container but its state directory and cgroups is the runtime's to remove."""
    try:
        config = msgspec.json.decode(Path(order.bundle, "config.json").read_bytes(), type=_Hooked)
    except FileNotFoundError:
        return True  # deleted before, up to here
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return False
    return config.hooks is None and config.linux.intel_rdt is None


def write(bundle: Path, content: bytes) -> None:
    """Write config.json, mode 0600.

    Raises:
        EffectFailed: the file system refused.
    """
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(bundle / "config.json", flags, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        raise EffectFailed(f"bundle {str(bundle)!r}: {error.strerror}") from error


def mark(order: ContainerOrder, name: str) -> None:
    """Leave a mark for a later life: "begun" before the monitor is run, "made" when it has told of its success."""
    try:
        Path(order.bundle, name).touch(mode=0o600)
    except OSError as error:
        raise EffectFailed(f"bundle {order.bundle!r}: {error.strerror}") from error


def was_begun(order: ContainerOrder) -> bool:
    """Say whether a create of this container ever began."""
    return Path(order.bundle, "begun").exists()


def is_half_made(order: ContainerOrder) -> bool:
    """Say whether a create began and its monitor never told of success: the runtime may still be at work."""
    return was_begun(order) and not Path(order.bundle, "made").exists()


def remove_files(directory: str, names: Iterable[str]) -> None:
    """Remove files of a directory; those that are not there are passed by."""
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(f"{directory}/{name}")
