"""Requests that no client sends: Hypothesis strategies made from the protobuf descriptors of CRI v1.

Most requests are a good one with a few fields spoilt, for a request of noise alone is refused by its first field and
tests nothing else. What stands for the id of something that exists is a marker, ``@pod``; see ``resolved``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from ocid.cri.stubs import api_pb2 as pb
from tests.cri.daemon import IMAGE, container_config, pod_config

SPOILT_MAX: Final = 4  # fields of a good request
FIELDS_MAX: Final = 4  # of each message of a request that is noise
DEPTH_MAX: Final = 5
PATIENCE_S: Final = 100.0  # of a client, on virtual time
IMPATIENT_S: Final = (0.001, 0.02, 0.05, 0.1, 0.3)  # effects of the fakes take 0.01 s a step
TOGETHER_MAX: Final = 6  # requests that are on their way at once
MANY: Final = 5000  # entries of a list that is too long

METHODS: Final[tuple[MethodDescriptor, ...]] = tuple(
    method
    for service in ("RuntimeService", "ImageService")
    for method in pb.DESCRIPTOR.services_by_name[service].methods
)

POD_IDS: Final = ("@pod", "@new-pod", "@pod-short", "@pod-longer", "@gone-pod")
CONTAINER_IDS: Final = (
    "@running", "@created", "@exited", "@new-container", "@running-short", "@running-longer", "@gone-container",
)  # fmt: skip
IMAGES: Final = (
    IMAGE, "@image", "@image-short", "registry.test/other:2", "registry.test/missing:1", "busybox",
    "sha256:" + "0" * 64,
    "registry.test/app@sha256:" + "a" * 64, "UPPER/case", "a:b:c", "http://x/y", "registry.test/" + "p/" * 300 + "x",
    "registry.test:99999/app", "@sha256:", ":", "-", "registry.test/app:" + "t" * 129,
)  # fmt: skip
PATHS: Final = (
    "/", "/data", "/dev/null", "/proc", "/proc/../etc", "/a/../b", "..", "../x", "relative/path", "//double//slash",
    "/sys/fs/cgroup", "/missing/x", "/x" * 3000, "/" + "x" * 4000, "/é/☃", "/a b", "/trailing/", "/.", "/a\0b",
)  # fmt: skip
TEXTS: Final = (
    "", "a", "web", "0", "-1", "a/b", "a=b", "\0", "a\0b", "\n", "\x7f\x1b[31m", "é☃\U0001f600", "%s%n{}$(x)`y`", '"}',
    "'", "x" * 64, "x" * 65, "x" * 254, "x" * 1000, "x" * 1100, "☃" * 400, "x" * 70_000, "{{.}}", "../..", "NaN",
    "null",
)  # fmt: skip
NUMBERS: Final = (
    0, 1, -1, 2, 80, 100, 1000, 1024, 65535, 65536, 100_000, 2**31 - 1, -(2**31), 2**32 - 1, 2**32,
    2**63 - 1, -(2**63), 2**64 - 1,
)  # fmt: skip
CAPABILITIES: Final = ("NET_ADMIN", "CAP_SYS_ADMIN", "all", "ALL", "cap_chown", "FLY", "")
PAGE_SIZES: Final = ("2MB", "1GB", "64KB", "2M", "huge")
UNIFIED: Final = (
    "memory.high",
    "memory.max",
    "cpu.weight",
    "../x",
    "memory",
    "cgroup.procs",
    "memory.high/x",
    "a.b\nc",
)
SYSCTLS: Final = (
    "net.core.somaxconn",
    "net/ipv4/ip_forward",
    "kernel.shmmax",
    "kernel.pid_max",
    "net..x",
    "fs.mqueue.a",
)
CGROUPS: Final = (
    "/kubepods/podx",
    "kubepods-podx.slice",
    "/../x",
    "a.slice",
    "/",
    ".slice",
    "a--b.slice",
    "/a.slice/b",
)
HOSTS: Final = ("127.0.0.1", "::1", "10.0.0.1", "fe80::1%eth0", "localhost", "256.1.1.1", "::", "fe80::1%a; b")
PROFILES: Final = ("runtime/default", "unconfined", "localhost/x", "localhost/", "/var/lib/kubelet/seccomp/x.json")
CPUS: Final = ("0", "0-1", "0,1-2", "a", "1-0", "-", "99999999999")
UNLOOKED_AT: Final = ("windows", "sandbox_config")  # large, and not what a request is about
WEIGHT: Final = 4  # of a method in sequences, unless it is here
WEIGHTS: Final = {
    **dict.fromkeys(("RunPodSandbox", "CreateContainer"), 16),  # all others are about what these make
    **dict.fromkeys(("StartContainer", "ExecSync", "Exec", "Attach", "PortForward", "UpdateContainerResources"), 6),
    **dict.fromkeys(("Version", "RuntimeConfig", "ImageFsInfo", "ListMetricDescriptors", "GetContainerEvents"), 1),
}
HANDLERS: Final = ("", "runc", "missing")

# What a field means, by its own name or by that of the message and the field.
VALUES: Final[Mapping[str, tuple[Any, ...]]] = {
    "pod_sandbox_id": POD_IDS,
    "container_id": CONTAINER_IDS,
    "target_id": CONTAINER_IDS,
    **{f"{kind}.id": POD_IDS for kind in ("PodSandboxFilter", "PodSandboxStatsFilter")},
    **{f"{kind}.id": CONTAINER_IDS for kind in ("ContainerFilter", "ContainerStatsFilter")},
    "pod_cidr": ("10.88.0.0/16", "10.88.0.0/16,fd00::/64", "10.88.0.0/33", "fd00::/64,"),
    "image": IMAGES, "user_specified_image": IMAGES, "image_ref": IMAGES,
    "host_path": PATHS, "container_path": PATHS, "log_directory": PATHS, "log_path": (*PATHS, "app/1.log"),
    "working_dir": PATHS,
    "masked_paths": PATHS, "readonly_paths": PATHS, "image_sub_path": PATHS, "location": PATHS,
    "add_capabilities": CAPABILITIES, "drop_capabilities": CAPABILITIES, "add_ambient_capabilities": CAPABILITIES,
    "page_size": PAGE_SIZES, "unified": UNIFIED, "sysctls": SYSCTLS, "cgroup_parent": CGROUPS,
    "host_ip": HOSTS, "servers": HOSTS, "runtime_handler": HANDLERS, "cpuset_cpus": CPUS, "cpuset_mems": CPUS,
    "permissions": ("r", "rw", "rwm", "rwx", "mmm"),
    "localhost_ref": PROFILES, "seccomp_profile_path": PROFILES, "apparmor_profile": PROFILES,
    "run_as_username": ("root", "nobody", "1000", "0:0", "a:b"),
    "cmd": ("true", "run:1"), "command": ("serve", "run:5", "code:3"), "args": ("run:2", "term:ignore"),
    "attempt": (0, 1, 2**32 - 1),
    "label_selector": ("app", "name"),
    "timeout": (0, 1, 5, 30, -1),
}  # fmt: skip
WORDS_OF_PROGRAMS: Final = ("run", "code", "term", "stuck", "noexec", "oom")  # of ``tests.fakes.world.Program``


@dataclass(frozen=True)
class Request:
    """One call: the method, its message with markers, and how long its caller waits for the answer."""

    method: MethodDescriptor
    message: Message
    patience_s: float = PATIENCE_S


@functools.cache
def requests(method: MethodDescriptor) -> st.SearchStrategy[Request]:
    """Requests of one method: mostly good ones that are spoilt, some that are good, some that are noise."""
    spoilt, other = _spoilt(method), noise(method.input_type, DEPTH_MAX)
    return st.integers(0, 9).flatmap(lambda dice: other if dice == 0 else spoilt).map(lambda one: Request(method, one))


def sequences(length: int) -> st.SearchStrategy[list[list[Request]]]:
    """What clients send: some at once, then some more.

    Those that make something come more often, those that nothing can be wrong with rarely. A few callers do not wait
    long.
    """
    method = st.sampled_from([one for one in METHODS for _ in range(WEIGHTS.get(one.name, WEIGHT))])
    request = st.builds(replace, method.flatmap(requests), patience_s=_patience())
    return st.lists(st.lists(request, min_size=1, max_size=TOGETHER_MAX), min_size=length // 4, max_size=length // 2)


def _patience() -> st.SearchStrategy[float]:
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(IMPATIENT_S) if dice == 0 else st.just(PATIENCE_S))


def good(method: MethodDescriptor) -> Message:
    """A request that is served, or refused for its state alone."""
    message = GetMessageClass(method.input_type)()
    maker = GOOD.get(method.name)
    if maker is not None:
        message.MergeFrom(maker())
        return message
    for field in method.input_type.fields:
        if field.name in VALUES and field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            setattr(message, field.name, VALUES[field.name][0])
        elif field.name == "image":
            message.image.image = IMAGE  # type: ignore[attr-defined]
    return message


def _run_pod() -> Message:
    return pb.RunPodSandboxRequest(config=pod_config("other"))


def _create() -> Message:
    return pb.CreateContainerRequest(
        pod_sandbox_id="@pod", config=container_config("another"), sandbox_config=pod_config()
    )


def _update() -> Message:
    return pb.UpdateContainerResourcesRequest(container_id="@running", linux=pb.LinuxContainerResources(cpu_shares=512))


def _update_pod() -> Message:
    return pb.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id="@pod",
        overhead=pb.LinuxContainerResources(cpu_shares=2),
        resources=pb.LinuxContainerResources(memory_limit_in_bytes=1 << 30),
    )


def _runtime_config() -> Message:
    network = pb.NetworkConfig(pod_cidr="10.88.0.0/16")
    return pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))


GOOD: Final[Mapping[str, Callable[[], Message]]] = {
    "RunPodSandbox": _run_pod,
    "CreateContainer": _create,
    "StopPodSandbox": lambda: pb.StopPodSandboxRequest(pod_sandbox_id="@new-pod"),
    "RemovePodSandbox": lambda: pb.RemovePodSandboxRequest(pod_sandbox_id="@new-pod"),
    "StartContainer": lambda: pb.StartContainerRequest(container_id="@created"),
    "StopContainer": lambda: pb.StopContainerRequest(container_id="@new-container", timeout=1),
    "RemoveContainer": lambda: pb.RemoveContainerRequest(container_id="@new-container"),
    "ContainerStats": lambda: pb.ContainerStatsRequest(container_id="@running"),
    "ListContainerStats": lambda: pb.ListContainerStatsRequest(filter={"pod_sandbox_id": "@pod"}),
    "StreamContainerStats": lambda: pb.StreamContainerStatsRequest(filter={"id": "@running"}),
    "ListPodSandboxStats": lambda: pb.ListPodSandboxStatsRequest(filter={"id": "@pod"}),
    "StreamPodSandboxStats": lambda: pb.StreamPodSandboxStatsRequest(filter={"label_selector": {"app": "schön\n"}}),
    "StreamPodSandboxes": lambda: pb.StreamPodSandboxesRequest(filter={"id": "@pod"}),
    "StreamContainers": lambda: pb.StreamContainersRequest(filter={"pod_sandbox_id": "@pod"}),
    "StreamImages": lambda: pb.StreamImagesRequest(filter={"image": {"image": IMAGE}}),
    "UpdateRuntimeConfig": _runtime_config,
    "ExecSync": lambda: pb.ExecSyncRequest(container_id="@running", cmd=["run:1"], timeout=5),
    "Exec": lambda: pb.ExecRequest(container_id="@running", cmd=["run:1"], stdout=True),
    "Attach": lambda: pb.AttachRequest(container_id="@running", stdout=True),
    "PortForward": lambda: pb.PortForwardRequest(pod_sandbox_id="@pod", port=[80]),
    "UpdateContainerResources": _update,
    "UpdatePodSandboxResources": _update_pod,
    "CheckpointContainer": lambda: pb.CheckpointContainerRequest(container_id="@running", location="/ckpt/a.tar"),
}


# --- spoiling ---------------------------------------------------------------------------------------------------------

Path = tuple[FieldDescriptor, ...]


@st.composite
def _spoilt(draw: st.DrawFn, method: MethodDescriptor) -> Message:
    message, paths = good(method), PATHS_OF[method.input_type.full_name]
    for _ in range(draw(st.integers(0, min(SPOILT_MAX, len(paths))))):
        _spoil(draw, message, draw(st.sampled_from(paths)))
    return message


def _spoil(draw: st.DrawFn, message: Any, path: Path) -> None:
    """Set, extend or clear the field at the end of *path*."""
    for field in path[:-1]:
        if field.is_repeated:
            items = getattr(message, field.name)
            message = items.add() if not items or draw(st.booleans()) else items[-1]
        else:
            message = getattr(message, field.name)
            message.SetInParent()
    field = path[-1]
    if draw(st.integers(0, 9)) == 0:
        message.ClearField(field.name)
        return
    _set(draw, message, field, DEPTH_MAX)


def _set(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if _is_map(field):
        entries = getattr(message, field.name)
        key, value = (field.message_type.fields_by_name[one] for one in ("key", "value"))
        for _ in range(draw(st.integers(0, 3))):
            if value.message_type is not None:
                entries[draw(_scalar(key, field))].MergeFrom(draw(noise(value.message_type, depth - 1)))
            else:
                entries[draw(_scalar(key, field))] = draw(_scalar(value, value))
    elif field.message_type is not None:
        target = getattr(message, field.name)
        for _ in range(draw(st.integers(0, 2)) if field.is_repeated else 1):
            child = target.add() if field.is_repeated else target
            child.SetInParent()
            child.MergeFrom(draw(noise(field.message_type, depth - 1)))
    elif field.is_repeated:
        values = draw(st.lists(_scalar(field, field), max_size=3))
        many = draw(st.integers(0, 19)) == 0
        getattr(message, field.name).extend(values * MANY if many else values)
    else:
        setattr(message, field.name, draw(_scalar(field, field)))


@functools.cache
def noise(descriptor: Descriptor, depth: int = DEPTH_MAX) -> st.SearchStrategy[Message]:
    """Any message of a type; also of other interfaces than CRI."""
    return _noisy(descriptor, depth)


@st.composite
def _noisy(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> Message:
    """Any message of a type, a few of its fields set."""
    message = GetMessageClass(descriptor)()
    if depth > 0 and descriptor.fields:
        for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=FIELDS_MAX)):
            _set(draw, message, field, depth)
    return message


@functools.cache
def _scalar(field: FieldDescriptor, meant: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field: mostly such as it is *meant* for, in a map of the map's field."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES:
        other = st.text(max_size=8).filter(lambda text: text.partition(":")[0] not in WORDS_OF_PROGRAMS)
        known = [one for one in _known(meant) if isinstance(one, str)]
        good = [st.sampled_from(known)] * 4 if known else []
        return st.one_of(*good, st.sampled_from(_values(field, meant)), other)
    return st.sampled_from(_values(field, meant))


def _known(meant: FieldDescriptor) -> tuple[Any, ...]:
    return VALUES.get(meant.name) or VALUES.get(f"{meant.containing_type.name}.{meant.name}", ())


def _values(field: FieldDescriptor, meant: FieldDescriptor) -> list[Any]:
    """Values worth trying, those that a field of that meaning might have first."""
    known = _known(meant)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            texts = [one for one in (*known, *TEXTS) if isinstance(one, str)]
            return (
                [*(one.encode() for one in texts), b"\xff\xfe"] if field.type == FieldDescriptor.TYPE_BYTES else texts
            )
        case FieldDescriptor.CPPTYPE_ENUM:
            return [*field.enum_type.values_by_number, 99, -1]
        case FieldDescriptor.CPPTYPE_BOOL:
            return [True, False]
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return [0.0, -1.0, float("inf"), float("nan")]
        case kind:
            low, high = _BOUNDS[kind]
            return [one for one in (*known, *NUMBERS) if isinstance(one, int) and low <= one <= high]


_BOUNDS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _paths(descriptor: Descriptor, before: Path = ()) -> list[Path]:
    """Every field below a message, by the way to it."""
    found: list[Path] = []
    for field in descriptor.fields:
        path = (*before, field)
        if field.message_type is None or _is_map(field) or field.name in UNLOOKED_AT:
            found.append(path)
        elif len(path) <= DEPTH_MAX:
            found += [path, *_paths(field.message_type, path)]
    return found


PATHS_OF: Final = {method.input_type.full_name: _paths(method.input_type) for method in METHODS}


# --- sweeping ---------------------------------------------------------------------------------------------------------


def sweep(method: MethodDescriptor, values_max: int) -> Iterator[Request]:
    """Good requests with one field spoilt: every field, by up to *values_max* of the values that are tried.

    Which values are taken when there are more depends on the field, so that over all fields every value has its turn.
    """
    yield Request(method, good(method))
    for number, path in enumerate(PATHS_OF[method.input_type.full_name]):
        changes = list(_changes(path[-1]))
        for turn in range(min(values_max, len(changes))):
            message = good(method)
            target = _below(message, path)
            changes[(number * 7 + turn) % len(changes)](target)
            _rename(message, f"{number}-{turn}")
            yield Request(method, message)


def _changes(field: FieldDescriptor) -> Iterator[Callable[[Any], None]]:
    """What is done to the message that holds *field*, one thing after the other."""
    yield lambda target: target.ClearField(field.name)
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[one] for one in ("key", "value"))
        known = VALUES.get(field.name, ("key",))
        for one in _values(key, field):
            yield lambda target, one=one: getattr(target, field.name).update({one: "1"})
        for one in _values(value, value):
            yield lambda target, one=one: getattr(target, field.name).update({known[0]: one})
    elif field.message_type is not None and field.is_repeated:
        for count in (1, MANY):
            yield lambda target, count=count: [getattr(target, field.name).add() for _ in range(count)]
    elif field.message_type is not None:
        yield lambda target: getattr(target, field.name).SetInParent()
    elif field.is_repeated:
        values = _values(field, field)
        for one in values:
            yield lambda target, one=one: getattr(target, field.name).append(one)
        yield lambda target: getattr(target, field.name).extend(values[:1] * MANY)
    else:
        for one in _values(field, field):
            yield lambda target, one=one: setattr(target, field.name, one)


def _below(message: Any, path: Path) -> Any:
    """The message that holds the last field of *path*, with enough around it to be looked at."""
    for field in path[:-1]:
        if field.is_repeated:
            items = getattr(message, field.name)
            message = items[-1] if items else _plausible(items.add())
        else:
            message = getattr(message, field.name)
            message.SetInParent()
    return message


def _plausible(message: Any) -> Any:
    """A new item of a list, with what its kind must have."""
    for field in message.DESCRIPTOR.fields:
        known = PLAUSIBLE.get((message.DESCRIPTOR.name, field.name))
        if known is not None:
            setattr(message, field.name, known)
    return message


PLAUSIBLE: Final = {
    ("Mount", "container_path"): "/data",
    ("Mount", "host_path"): "/srv",
    ("Device", "host_path"): "/dev/null",
    ("KeyValue", "key"): "KEY",
    ("PortMapping", "container_port"): 80,
    ("PortMapping", "host_port"): 8080,
    ("HugepageLimit", "page_size"): "2MB",
    ("IDMapping", "length"): 65536,
    ("CDIDevice", "name"): "vendor.com/class=one",
}


def _rename(message: Any, suffix: str) -> None:
    """Make what a request asks for another thing than what the one before asked for."""
    if message.DESCRIPTOR.name == "RunPodSandboxRequest" and message.config.metadata.uid == "uid-other":
        message.config.metadata.uid += suffix
    elif message.DESCRIPTOR.name == "CreateContainerRequest" and message.config.metadata.name == "another":
        message.config.metadata.name += suffix


# --- markers ----------------------------------------------------------------------------------------------------------


def resolved(message: Message, ids: Mapping[str, str]) -> Message:
    """The message with every marker replaced by what it stands for."""
    copy = type(message)()
    copy.CopyFrom(message)
    _resolve(copy, ids)
    return copy


def _resolve(message: Any, ids: Mapping[str, str]) -> None:
    for field, value in message.ListFields():
        if _is_map(field):
            continue
        if field.message_type is not None:
            for one in value if field.is_repeated else (value,):
                _resolve(one, ids)
        elif isinstance(value, str) and value in ids:
            setattr(message, field.name, ids[value])
