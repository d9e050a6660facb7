"""Container Device Interface: what vendors' specifications add to a container that asks for one of their devices.

Specifications are read anew for every container that asks, and what they came to is part of its recorded OCI spec,
with its digest, so that it can be told later which edition of a vendor's file a container was made from.

Source: CNCF CDI SPEC.md, versions 0.3 to 1.1; CRI ContainerConfig.CDI_devices; Kubernetes device plugins' annotations.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from ocid.domain import yamltext
from ocid.domain.configs import ContainerConfig
from ocid.domain.spec.inputs import DeviceNode, ExtraMount
from ocid.errors import InvalidRequest, Unsupported

DEVICES_MAX: Final = 256  # of one container, by name
SPEC_BYTES_MAX: Final = 4 << 20  # of one file; a node with 16 GPUs in many slices has some 500 KiB
YAML_BYTES_MAX: Final = 1 << 20  # of one file in YAML, which takes a hundred times as long to read
YAML_SUFFIXES: Final = (".yaml", ".yml")
SUFFIXES: Final = (".json", *YAML_SUFFIXES)
SPECS_MAX: Final = 512  # files in all directories
EDITS_MAX: Final = 4096  # of one kind, for one container
ANNOTATION_PREFIX: Final = "cdi.k8s.io/"  # of container annotations whose value is a list of devices
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

_VENDOR: Final = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_CLASS: Final = r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_KIND: Final = re.compile(f"{_VENDOR}/{_CLASS}")
_DEVICE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"(?:0\.[3-9]|1\.[0-9]+)\.[0-9]+")
_SHOWN_MAX: Final = 200


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Node(_Part, frozen=True, kw_only=True):
    """A device node; what is missing is as on the host."""

    path: str  # in the container
    host_path: str = ""  # empty: the same
    type: str = ""  # "b", "c", "u" or "p"
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class Mount(_Part, frozen=True, kw_only=True):
    """A mount, as OCI has it."""

    host_path: str
    container_path: str
    type: str = ""
    options: tuple[str, ...] = ()


class Hook(_Part, frozen=True, kw_only=True):
    """An OCI hook: a program of the host that the OCI runtime runs."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None  # seconds


class Edits(_Part, frozen=True, kw_only=True):
    """CDI containerEdits."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[Node, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = ()
    intel_rdt: dict[str, object] | None = None  # OCI linux.intelRdt
    net_devices: tuple[dict[str, str], ...] = ()


class Device(_Part, frozen=True, kw_only=True):
    """One device of a specification."""

    name: str
    container_edits: Edits = Edits()


class Spec(_Part, frozen=True, kw_only=True):
    """One file."""

    cdi_version: str
    kind: str  # vendor/class
    devices: tuple[Device, ...] = ()
    container_edits: Edits = Edits()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was found."""

    path: str
    priority: int  # of its directory; a device of a higher one hides that of a lower one
    content: bytes | None  # None: it is there, but it is not read


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """Every device that the node has."""

    devices: dict[str, tuple[Spec, Device]]  # by qualified name
    conflicts: dict[str, tuple[str, str]]  # qualified name → two files of the same directory that both have it
    skipped: tuple[str, ...]  # what could not be read, and why


def requested(config: ContainerConfig) -> tuple[str, ...]:
    """Return the devices that a container asks for, each once: the field's first, then those of annotations.

    Raises:
        InvalidRequest: a name is none, or there are too many.
    """
    names = list(config.cdi_devices)
    for key, value in config.annotations.items():
        if key.startswith(ANNOTATION_PREFIX):
            names += value.split(",")
    found = tuple(dict.fromkeys(names))
    for name in found:
        kind, _, device = name.partition("=")
        if _KIND.fullmatch(kind) is None or _DEVICE.fullmatch(device) is None:
            raise InvalidRequest(f"CDI device {name[:_SHOWN_MAX]!r} is no name: wanted 'vendor.com/class=device'")
    if len(found) > DEVICES_MAX:
        raise InvalidRequest(f"container has {len(found)} CDI devices, the limit is {DEVICES_MAX}")
    return found


def registry(sources: Iterable[Source]) -> Registry:
    """Read every file; one that is wrong is left out, and named where a device is missed."""
    devices: dict[str, tuple[Spec, Device]] = {}
    held: dict[str, tuple[int, str]] = {}
    conflicts: dict[str, tuple[str, str]] = {}
    skipped = []
    for source in sources:
        try:
            spec = parse(source)
        except InvalidRequest as error:
            skipped.append(error.message)
            continue
        for device in spec.devices:
            name = f"{spec.kind}={device.name}"
            priority, other = held.get(name, (-1, ""))
            if priority > source.priority:
                continue
            conflicts.pop(name, None)
            if priority == source.priority:
                conflicts[name] = (other, source.path)
            devices[name], held[name] = (spec, device), (source.priority, source.path)
    return Registry(devices=devices, conflicts=conflicts, skipped=tuple(skipped))


def parse(source: Source) -> Spec:
    """Read one file, in JSON or YAML by its name.

    Raises:
        InvalidRequest: it is no specification; the message begins with its path.
    """
    if source.content is None:
        raise InvalidRequest(f"{source.path} is not read: only files of at most {SPEC_BYTES_MAX} bytes are")
    try:
        if source.path.endswith(YAML_SUFFIXES):
            spec = _from_yaml(source.content)
        else:
            spec = msgspec.json.decode(source.content, type=Spec)
    except (ValueError, RecursionError) as error:  # all of msgspec's are ValueErrors
        raise InvalidRequest(f"{source.path}: {error}") from None
    if _VERSION.fullmatch(spec.cdi_version) is None:
        raise InvalidRequest(f"{source.path}: cdiVersion {spec.cdi_version[:32]!r}: wanted 0.3.0 to 1.x")
    if _KIND.fullmatch(spec.kind) is None:
        raise InvalidRequest(f"{source.path}: kind {spec.kind[:_SHOWN_MAX]!r}: wanted 'vendor.com/class'")
    for device in spec.devices:
        if _DEVICE.fullmatch(device.name) is None:
            raise InvalidRequest(f"{source.path}: device {device.name[:_SHOWN_MAX]!r}: wanted letters and digits")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        _check(edits, source.path)
    return spec


@functools.lru_cache(maxsize=32)
def _from_yaml(content: bytes) -> Spec:
    """Read a specification once, not for every container."""
    return msgspec.convert(yamltext.decode(content, YAML_BYTES_MAX), type=Spec)


def _check(edits: Edits, path: str) -> None:
    for variable in edits.env:
        if not variable.partition("=")[0] or "=" not in variable or "\0" in variable:
            raise InvalidRequest(f"{path}: env {variable[:_SHOWN_MAX]!r}: wanted 'NAME=value'")
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            raise InvalidRequest(f"{path}: hook {hook.hook_name[:32]!r}: wanted one of {', '.join(HOOKS)}")
    paths = [hook.path for hook in edits.hooks]
    paths += [one for node in edits.device_nodes for one in (node.path, node.host_path or node.path)]
    paths += [mount.container_path for mount in edits.mounts]
    paths += [mount.host_path for mount in edits.mounts if mount.type in ("", "bind")]
    for one in paths:
        if not one.startswith("/") or ".." in one.split("/") or "\0" in one:
            raise InvalidRequest(f"{path}: path {one[:_SHOWN_MAX]!r}: wanted an absolute one without '..'")
    for node in edits.device_nodes:
        if node.type not in ("", "b", "c", "u", "p") or set(node.permissions) - set("rwm"):
            raise InvalidRequest(f"{path}: device node {node.path[:_SHOWN_MAX]!r}: wanted type b, c, u or p, and rwm")


def edits_of(known: Registry, names: Sequence[str]) -> Edits:
    """Return everything that these devices add, a specification's own edits before those of its first device.

    Raises:
        InvalidRequest: a device is unknown, or two files of one directory have it; the message names it.
        Unsupported: network devices are to be moved.
    """
    parts: list[Edits] = []
    seen: set[int] = set()
    for name in names:
        if name in known.conflicts:
            raise InvalidRequest(f"CDI device {name!r} is in both {' and '.join(known.conflicts[name])}: remove one")
        if name not in known.devices:
            why = f"; left out: {'; '.join(known.skipped)}"[:1000] if known.skipped else ""
            raise InvalidRequest(f"CDI device {name!r} is in no specification of this node{why}")
        spec, device = known.devices[name]
        if id(spec) not in seen:
            parts.append(spec.container_edits)
            seen.add(id(spec))
        parts.append(device.container_edits)
    merged = Edits(
        env=tuple(one for part in parts for one in part.env),
        device_nodes=tuple(one for part in parts for one in part.device_nodes),
        mounts=tuple(one for part in parts for one in part.mounts),
        hooks=tuple(one for part in parts for one in part.hooks),
        additional_gids=tuple(dict.fromkeys(one for part in parts for one in part.additional_gids if one)),
        intel_rdt=next((part.intel_rdt for part in reversed(parts) if part.intel_rdt is not None), None),
        net_devices=tuple(one for part in parts for one in part.net_devices),
    )
    if merged.net_devices:
        raise Unsupported(f"CDI devices {', '.join(names)[:_SHOWN_MAX]} move network devices, which is not supported")
    for field in msgspec.structs.fields(Edits):
        value = getattr(merged, field.name)
        if isinstance(value, tuple) and len(value) > EDITS_MAX:
            raise InvalidRequest(f"CDI devices add {len(value)} {field.encode_name}, the limit is {EDITS_MAX}")
    return merged


def document(edits: Edits) -> bytes:
    """Return what was applied, always the same bytes for the same edits."""
    return msgspec.json.encode(edits, order="sorted")


def needs_host(node: Node) -> bool:
    """Say whether a device node can only be completed by looking at the host's."""
    return not node.type or (node.type != "p" and node.major == 0)


def completed(node: Node, found: DeviceNode | None) -> DeviceNode:
    """Return a device node with what the specification says, and the rest as *found* on the host."""
    base = found or DeviceNode(path=node.path, kind="c" if node.type == "u" else node.type)
    if not needs_host(node):
        kind = "c" if node.type == "u" else node.type
        base = msgspec.structs.replace(base, kind=kind, major=node.major, minor=node.minor)
    return msgspec.structs.replace(
        base,
        path=node.path,
        file_mode=base.file_mode if node.file_mode is None else node.file_mode,
        uid=base.uid if node.uid is None else node.uid,
        gid=base.gid if node.gid is None else node.gid,
        access=node.permissions or "rwm",
    )


def extra_mounts(edits: Edits) -> tuple[ExtraMount, ...]:
    """Return the mounts in OCI's form; one without a type is a bind mount."""
    return tuple(
        ExtraMount(
            destination=mount.container_path,
            source=mount.host_path,
            kind=mount.type or "bind",
            options=_options(mount),
        )
        for mount in edits.mounts
    )


def _options(mount: Mount) -> tuple[str, ...]:
    is_bind = mount.type in ("", "bind")
    return ("rbind", *mount.options) if is_bind and not {"bind", "rbind"} & {*mount.options} else mount.options


def oci_hooks(edits: Edits) -> Mapping[str, list[dict[str, object]]]:
    """Return the OCI ``hooks`` object. OCI config.md "POSIX-platform Hooks"."""
    hooks: dict[str, list[dict[str, object]]] = {}
    for hook in edits.hooks:
        entry: dict[str, object] = {"path": hook.path}
        if hook.args:
            entry["args"] = list(hook.args)
        if hook.env:
            entry["env"] = list(hook.env)
        if hook.timeout is not None:
            entry["timeout"] = hook.timeout
        hooks.setdefault(hook.hook_name, []).append(entry)
    return hooks
