"""From NRI's messages to our structs: what plugins want. Nothing is judged here, but nothing is left out silently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from ocid.domain import nri
from ocid.nri.stubs import nri_pb2 as pb
from ocid.nri.told import SNAKE


def adjustment(message: pb.ContainerAdjustment) -> nri.Adjustment:
    """What a plugin wants to be different about a container that is being made."""
    linux = message.linux
    return nri.Adjustment(
        annotations=dict(message.annotations),
        mounts=tuple(
            nri.Mount(destination=one.destination, source=one.source, kind=one.type, options=tuple(one.options))
            for one in message.mounts
        ),
        env=tuple((one.key, one.value) for one in message.env),
        args=tuple(message.args),
        hooks={
            name: tuple(_hook(one) for one in getattr(message.hooks, snake))
            for name, snake in SNAKE.items()
            if getattr(message.hooks, snake)
        },
        rlimits=tuple(nri.Rlimit(kind=one.type, hard=one.hard, soft=one.soft) for one in message.rlimits),
        devices=tuple(_device(one) for one in linux.devices),
        resources=resources(linux.resources) if linux.HasField("resources") else None,
        oom_score_adj=linux.oom_score_adj.value if linux.HasField("oom_score_adj") else None,
        seccomp=_seccomp(linux.seccomp_policy) if linux.HasField("seccomp_policy") else None,
        namespaces=tuple((one.type, one.path) for one in linux.namespaces),
        sysctl=dict(linux.sysctl),
        cdi_devices=tuple(one.name for one in message.CDI_devices),
        rdt=_rdt(linux),
        io_priority=_io_priority(linux.io_priority) if linux.HasField("io_priority") else None,
        scheduler=_scheduler(linux.scheduler) if linux.HasField("scheduler") else None,
        refused=tuple(_refused(message)),
    )


def updates(messages: Iterable[pb.ContainerUpdate]) -> tuple[nri.Update, ...]:
    """What a plugin wants of containers that exist."""
    return tuple(
        nri.Update(
            container_id=one.container_id,
            resources=resources(one.linux.resources),
            ignore_failure=one.ignore_failure,
        )
        for one in messages
    )


def evictions(messages: Iterable[pb.ContainerEviction], plugin: str) -> tuple[nri.Eviction, ...]:
    """Which containers *plugin* wants to be ended."""
    return tuple(nri.Eviction(container_id=one.container_id, reason=one.reason, plugin=plugin) for one in messages)


def resources(message: pb.LinuxResources) -> nri.Resources:
    """OCI linux.resources, as far as they are said."""
    memory, cpu = message.memory, message.cpu
    return nri.Resources(
        memory_limit=_value(memory, "limit"),
        memory_reservation=_value(memory, "reservation"),
        memory_swap=_value(memory, "swap"),
        memory_kernel=_value(memory, "kernel"),
        memory_kernel_tcp=_value(memory, "kernel_tcp"),
        memory_swappiness=_value(memory, "swappiness"),
        memory_disable_oom_killer=_value(memory, "disable_oom_killer"),
        memory_use_hierarchy=_value(memory, "use_hierarchy"),
        cpu_shares=_value(cpu, "shares"),
        cpu_quota=_value(cpu, "quota"),
        cpu_period=_value(cpu, "period"),
        cpu_realtime_runtime=_value(cpu, "realtime_runtime"),
        cpu_realtime_period=_value(cpu, "realtime_period"),
        cpu_cpus=cpu.cpus or None,
        cpu_mems=cpu.mems or None,
        pids_limit=message.pids.limit if message.HasField("pids") else None,
        hugepages={one.page_size: one.limit for one in message.hugepage_limits},
        unified=dict(message.unified),
        blockio_class=_value(message, "blockio_class"),
        rdt_class=_value(message, "rdt_class"),
        devices=tuple(
            nri.DeviceRule(
                allow=one.allow,
                kind=one.type,
                major=_value(one, "major"),
                minor=_value(one, "minor"),
                access=one.access,
            )
            for one in message.devices
        ),
    )


def _refused(message: pb.ContainerAdjustment) -> Iterable[str]:
    """Name what is set and cannot be done; OCI runtimes would take some of it and do nothing."""
    linux = message.linux
    if linux.cgroups_path:
        yield f"the cgroup {linux.cgroups_path[:64]!r}"
    numbers = [("I/O priority class", linux.io_priority, "class"), ("scheduler policy", linux.scheduler, "policy")]
    for words, part, field in numbers:
        if not _name(part, field):
            yield f"{words} {getattr(part, field)}"
    if any(one not in pb.LinuxSchedulerFlag.DESCRIPTOR.values_by_number for one in linux.scheduler.flags):
        yield "an unknown scheduler flag"
    if linux.HasField("memory_policy"):
        yield "memory policy"
    if linux.net_devices:
        yield "network devices"
    if linux.resources.HasField("blockio_class"):
        yield "a block I/O class"


def _rdt(linux: pb.LinuxContainerAdjustment) -> nri.Rdt | None:
    """The class has two places; that among the resources is the older one."""
    wanted, older = linux.rdt, _value(linux.resources, "rdt_class")
    if not linux.HasField("rdt"):
        return None if older is None else nri.Rdt(clos_id=older)
    clos_id = _value(wanted, "clos_id")
    return nri.Rdt(
        clos_id=older if clos_id is None else clos_id,
        schemata=tuple(wanted.schemata.value) if wanted.HasField("schemata") else None,
        monitoring=_value(wanted, "enable_monitoring"),
        removed=wanted.remove,
    )


def _io_priority(message: pb.LinuxIOPriority) -> dict[str, Any]:
    if getattr(message, "class") == pb.IOPRIO_CLASS_NONE:
        return {}
    return {"class": _name(message, "class"), "priority": message.priority}


def _scheduler(message: pb.LinuxScheduler) -> dict[str, Any]:
    """OCI process.scheduler; what is zero is left out."""
    if message.policy == pb.SCHED_NONE:
        return {}
    numbers = {name: getattr(message, name) for name in ("nice", "priority", "runtime", "deadline", "period")}
    made: dict[str, Any] = {"policy": _name(message, "policy"), **{k: v for k, v in numbers.items() if v}}
    names = pb.LinuxSchedulerFlag.DESCRIPTOR.values_by_number
    if message.flags:
        made["flags"] = [names[one].name for one in message.flags if one in names]
    return made


def _name(message: Message, field: str) -> str:
    """Return an enum's name, "" where its number has none."""
    number = getattr(message, field)
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    names = {} if kind is None else kind.values_by_number
    return names[number].name if number in names else ""


def _value(message: Message, name: str) -> Any:
    """Return the value of an optional field; None where it is not set."""
    return getattr(message, name).value if message.HasField(name) else None


def _hook(message: pb.Hook) -> nri.Hook:
    return nri.Hook(
        path=message.path, args=tuple(message.args), env=tuple(message.env), timeout_s=_value(message, "timeout")
    )


def _device(message: pb.LinuxDevice) -> nri.Device:
    return nri.Device(
        path=message.path,
        kind=message.type,
        major=message.major,
        minor=message.minor,
        file_mode=_value(message, "file_mode"),
        uid=_value(message, "uid"),
        gid=_value(message, "gid"),
    )


def _seccomp(message: pb.LinuxSeccomp) -> dict[str, Any]:
    """OCI linux.seccomp; what is empty is left out."""
    made: dict[str, Any] = {
        "defaultAction": message.default_action,
        "defaultErrnoRet": _value(message, "default_errno"),
        "architectures": list(message.architectures),
        "flags": list(message.flags),
        "listenerPath": message.listener_path,
        "listenerMetadata": message.listener_metadata,
        "syscalls": [_syscall(one) for one in message.syscalls],
    }
    return {name: value for name, value in made.items() if value not in (None, "", [])}


def _syscall(message: pb.LinuxSyscall) -> dict[str, Any]:
    made: dict[str, Any] = {"names": list(message.names), "action": message.action}
    if message.HasField("errno_ret"):
        made["errnoRet"] = message.errno_ret.value
    if message.args:
        made["args"] = [
            {"index": one.index, "value": one.value, "valueTwo": one.value_two, "op": one.op} for one in message.args
        ]
    return made
