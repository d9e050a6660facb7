"""What an image says about how to run it, read from the OCI or Docker image configuration.

Registries hold twelve years of hand-made configurations, so the reader is tolerant: a field of the wrong type counts
as absent, a lone string counts as a list of one. Only a document that is no JSON object at all is refused.

Source: OCI image-spec, config.md; Docker image specification v1.2.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ocid.errors import InvalidRequest

IMAGE_CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024  # the limit that registries put on manifests; real ones are < 50 KiB
ITEMS_MAX: Final = 10_000  # of one list or map; no runnable image needs more


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ``config`` object of an image, and the platform it was built for."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # "NAME=value"
    working_dir: str = ""
    user: str = ""  # "user", "uid", "user:group", "uid:gid" or empty
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()  # sorted absolute paths
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()  # sorted "80/tcp"
    architecture: str = ""
    os: str = ""
    variant: str = ""


def parse_image_config(raw: bytes) -> ImageConfig:
    """Read an image configuration document.

    Raises:
        InvalidRequest: *raw* is too large, is not JSON, or is not a JSON object.
    """
    if len(raw) > IMAGE_CONFIG_BYTES_MAX:
        raise InvalidRequest(f"image config is {len(raw)} bytes, the limit is {IMAGE_CONFIG_BYTES_MAX}")
    try:
        document: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"image config is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"image config is a JSON {type(document).__name__}, wanted an object")
    config = document.get("config")
    if not isinstance(config, dict):
        config = {}
    return ImageConfig(
        entrypoint=_strings(config.get("Entrypoint")),
        cmd=_strings(config.get("Cmd")),
        env=_strings(config.get("Env")),
        working_dir=_string(config.get("WorkingDir")),
        user=_string(config.get("User")),
        stop_signal=_string(config.get("StopSignal")),
        volumes=_keys(config.get("Volumes")),
        labels=_labels(config.get("Labels")),
        exposed_ports=_keys(config.get("ExposedPorts")),
        architecture=_string(document.get("architecture")),
        os=_string(document.get("os")),
        variant=_string(document.get("variant")),
    )


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value[:ITEMS_MAX] if isinstance(item, str))


def _keys(value: object) -> tuple[str, ...]:
    """The keys of a set spelled as a JSON object of empty objects; old builders wrote a list."""
    if isinstance(value, dict):
        return tuple(sorted(key for key in list(value)[:ITEMS_MAX] if isinstance(key, str)))
    return tuple(sorted(_strings(value)))


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    pairs = list(value.items())[:ITEMS_MAX]
    return {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}
