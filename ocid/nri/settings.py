"""What the configuration file says of NRI, and the configuration files of plugins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ocid.errors import EffectFailed, Exhausted

CONFIG_BYTES_MAX = 1 << 20  # of one plugin's file


@dataclass(frozen=True)
class NriSettings:
    """Where plugins are found, and how long they may take."""

    socket: Path
    plugin_dir: Path
    config_dir: Path
    registration_s: float = 5.0
    request_s: float = 2.0
    disable_external: bool = False  # no socket: only plugins from plugin_dir


def read_config(directory: Path, index: str, base: str) -> str:
    """Return a plugin's configuration, from ``NN-name.conf`` or else ``name.conf``; "" where there is neither.

    Raises:
        EffectFailed: it cannot be read.
        Exhausted: it is too long.
    """
    for name in (f"{index}-{base}.conf", f"{base}.conf"):
        path = directory / name
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                text = file.read(CONFIG_BYTES_MAX + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EffectFailed(f"cannot read {str(path)!r}: {error.strerror}") from error
        if len(text) > CONFIG_BYTES_MAX:
            raise Exhausted(f"{str(path)!r} is longer than {CONFIG_BYTES_MAX} bytes")
        return text.decode("utf-8", "replace")
    return ""
