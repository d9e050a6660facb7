"""What people write on the command line of ``ocid spec generate``, read into what the generator takes. Pure.

All raise InvalidRequest, which quotes what was written and says how it is to be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ocid.domain.configs import HugepageLimit, IdMapping
from ocid.domain.spec.inputs import ExtraMount, Rlimit
from ocid.domain.spec.options import HOST, Hook
from ocid.domain.spec.validate_linux import NAMESPACES, PROPAGATIONS
from ocid.domain.spec.validate_process import RLIMITS
from ocid.errors import InvalidRequest

CPU_PERIOD_US: Final = 100_000  # what --cpus is counted in, the kernel's default
UNLIMITED: Final = 2**64 - 1  # RLIM_INFINITY

_BYTES: Final = re.compile(r"([0-9]{1,15})([bkmgt]?)b?", re.IGNORECASE)
_UNITS: Final = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_CPUS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_BIND_OPTIONS: Final = frozenset({"bind", "rbind"})
_MOUNT_WORDS: Final = {"src": "source", "dst": "destination", "target": "destination"}


def size(text: str, option: str) -> int:
    """Bytes: "64m" → 67108864; "-1" is no limit; "" is not given, 0."""
    if text in ("", "-1"):
        return int(text or 0)
    found = _BYTES.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{option} {text[:64]!r}: wanted bytes such as 1048576, 64m or 2g")
    return int(found[1]) << _UNITS[found[2].lower()]


def cpu_quota(text: str) -> int:
    """``--cpus``: "1.5" → 150000 µs of each 100 ms."""
    if _CPUS.fullmatch(text) is None or float(text) == 0.0:
        raise InvalidRequest(f"--cpus {text[:64]!r}: wanted a number such as 2 or 0.5")
    return round(float(text) * CPU_PERIOD_US)


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` texts."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"{option} {text[:100]!r}: wanted KEY=VALUE")
        found[key] = value
    return found


def namespace(kind: str, text: str) -> str:
    """A mode: "private" → "", "host" → HOST, "ns:PATH" or a path → the path."""
    if text == "private":
        return ""
    if text == HOST:
        return HOST
    path = text.removeprefix("ns:")
    if not path.startswith("/"):
        raise InvalidRequest(f"{kind} namespace {text[:100]!r}: wanted private, host or ns:/path")
    return path


def namespace_added(text: str) -> tuple[str, str]:
    """``TYPE[:PATH]``."""
    kind, colon, path = text.partition(":")
    if kind not in NAMESPACES or (colon and not path.startswith("/")):
        raise InvalidRequest(
            f"namespace {text[:100]!r}: wanted TYPE or TYPE:/path, TYPE one of {', '.join(NAMESPACES)}"
        )
    return kind, path


def id_mapping(text: str) -> IdMapping:
    """``CONTAINER:HOST:SIZE``."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise InvalidRequest(f"id mapping {text[:64]!r}: wanted CONTAINER:HOST:SIZE such as 0:100000:65536")
    container, host, length = map(int, parts)
    return IdMapping(container_id=container, host_id=host, length=length)


def rlimit(text: str) -> Rlimit:
    """``nofile=1024:4096`` or ``RLIMIT_NOFILE=1024``; "unlimited" and -1 are no limit."""
    name, _, limits = text.partition("=")
    kind = name.upper() if name.upper().startswith("RLIMIT_") else f"RLIMIT_{name.upper()}"
    soft, colon, hard = limits.partition(":")
    numbers = [_limit(part) for part in (soft, hard if colon else soft)]
    if kind not in RLIMITS or None in numbers:
        raise InvalidRequest(f"--ulimit {text[:64]!r}: wanted TYPE=SOFT[:HARD] such as nofile=1024:4096")
    return Rlimit(kind=kind, soft=numbers[0] or 0, hard=numbers[1] or 0)


def _limit(text: str) -> int | None:
    if text in ("unlimited", "-1"):
        return UNLIMITED
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def hugepages(text: str) -> HugepageLimit:
    """``2MB:64m``."""
    page_size, _, limit = text.partition(":")
    return HugepageLimit(page_size=page_size, limit=size(limit or "?", "--hugepage-limit"))


def hook(text: str) -> Hook:
    """``PATH[:ARG...]``; the first argument is the program's own name, as for execv(3)."""
    path, *arguments = text.split(":")
    if not path.startswith("/"):
        raise InvalidRequest(f"hook {text[:100]!r}: wanted an absolute path, and arguments after colons")
    return Hook(path=path, args=(path, *arguments) if arguments else ())


def device(text: str) -> tuple[str, str, str]:
    """``HOST[:CONTAINER[:rwm]]`` → both paths and the access."""
    host, *rest = text.split(":")
    if len(rest) == 1 and not rest[0].startswith("/"):
        rest = [host, *rest]
    container = rest[0] if rest else host
    access = rest[1] if len(rest) > 1 else "rwm"
    if not host.startswith("/") or not container.startswith("/") or len(rest) > 2 or set(access) - set("rwm"):
        raise InvalidRequest(f"--device {text[:100]!r}: wanted /dev/host[:/dev/container[:rwm]]")
    return host, container, access


# --- mounts ----------------------------------------------------------------------------------------------------------


def bind(text: str) -> ExtraMount:
    """``SOURCE:DESTINATION[:OPTIONS]``."""
    source, *rest = text.split(":")
    if not source or not rest or len(rest) > 2:
        raise InvalidRequest(f"--volume {text[:100]!r}: wanted SOURCE:DESTINATION[:OPTIONS]")
    return bound(source, rest[0], rest[1].split(",") if len(rest) > 1 else [])


def bound(source: str, destination: str, options: list[str]) -> ExtraMount:
    """A bind mount: recursive, and private unless another propagation is asked for."""
    asked = [one for one in options if one and one not in ("z", "Z")]
    if not _BIND_OPTIONS & set(asked):
        asked.insert(0, "rbind")
    if not PROPAGATIONS & set(asked):
        asked.append("rprivate")
    return ExtraMount(destination=_destination(destination), source=source, options=tuple(asked))


def tmpfs(text: str) -> ExtraMount:
    """``DESTINATION[:OPTIONS]``; without options what podman gives: nosuid, nodev, noexec."""
    destination, _, options = text.partition(":")
    chosen = tuple(one for one in options.split(",") if one) or ("nosuid", "nodev", "noexec")
    return ExtraMount(destination=_destination(destination), source="tmpfs", kind="tmpfs", options=chosen)


def mount(text: str) -> ExtraMount:
    """``type=bind,source=/a,destination=/b,ro``; also src, dst, target, readonly, bind-propagation, tmpfs-size."""
    words: dict[str, str] = {}
    options: list[str] = []
    for item in text.split(","):
        name, equals, value = item.partition("=")
        name = _MOUNT_WORDS.get(name, name)
        match name:
            case "type" | "source" | "destination" if equals:
                words[name] = value
            case "readonly" | "ro":
                options.append("rw" if value == "false" else "ro")
            case "bind-propagation" if value in PROPAGATIONS:
                options.append(value)
            case "tmpfs-size" | "tmpfs-mode" if equals:
                options.append(f"{name.removeprefix('tmpfs-')}={value}")
            case _ if item:
                options.append(item)
            case _:
                raise InvalidRequest(f"--mount {text[:100]!r} has an empty item")
    kind = words.get("type", "bind")
    destination = _destination(words.get("destination", ""))
    if kind == "bind":
        if not words.get("source"):
            raise InvalidRequest(f"--mount {text[:100]!r}: wanted source=PATH for a bind mount")
        return bound(words["source"], destination, options)
    return ExtraMount(destination=destination, source=words.get("source", kind), kind=kind, options=tuple(options))


def _destination(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise InvalidRequest(f"mount destination {path[:100]!r}: wanted an absolute path without '..'")
    return path
