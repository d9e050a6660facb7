"""From our structs to NRI's messages: what plugins are told.

A container is told from its OCI runtime specification, as other runtimes do, so that a plugin sees what it may adjust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ocid.domain.nri import Adjustment, Change, ContainerFacts, Device, Hook, PodFacts, Rdt, Resources
from ocid.domain.nri_apply import HOOKS, resources_of
from ocid.errors import InvalidRequest
from ocid.nri.stubs import nri_pb2 as pb

Spec = Mapping[str, Any]

SNAKE: Final = dict(
    zip(
        HOOKS,
        ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"),
        strict=True,
    )
)
FIELDS: Final = {  # what a Change calls it → nri Field
    "annotations": pb.Annotations,
    "mounts": pb.Mounts,
    "hooks": pb.OciHooks,
    "devices": pb.Devices,
    "env": pb.Env,
    "args": pb.Args,
    "memory limit": pb.MemLimit,
    "memory reservation": pb.MemReservation,
    "memory swap": pb.MemSwapLimit,
    "memory kernel": pb.MemKernelLimit,
    "memory kernelTCP": pb.MemTCPLimit,
    "memory swappiness": pb.MemSwappiness,
    "memory disableOOMKiller": pb.MemDisableOomKiller,
    "memory useHierarchy": pb.MemUseHierarchy,
    "cpu shares": pb.CPUShares,
    "cpu quota": pb.CPUQuota,
    "cpu period": pb.CPUPeriod,
    "cpu realtimeRuntime": pb.CPURealtimeRuntime,
    "cpu realtimePeriod": pb.CPURealtimePeriod,
    "cpu cpus": pb.CPUSetCPUs,
    "cpu mems": pb.CPUSetMems,
    "pids limit": pb.PidsLimit,
    "huge pages": pb.HugepageLimits,
    "unified": pb.CgroupsUnified,
    "cdi devices": pb.CdiDevices,
    "rdt class": pb.RdtClosID,
    "rdt schemata": pb.RdtSchemata,
    "rdt monitoring": pb.RdtEnableMonitoring,
    "io priority": pb.IoPriority,
    "scheduler": pb.LinuxSched,
    "oom score": pb.OomScoreAdj,
    "rlimits": pb.Rlimits,
    "seccomp": pb.SeccompPolicy,
    "namespaces": pb.Namespace,
    "sysctl": pb.Sysctl,
}


def pod(facts: PodFacts) -> pb.PodSandbox:
    """NRI PodSandbox."""
    linux = pb.LinuxPodSandbox(
        cgroup_parent=facts.cgroup_parent,
        namespaces=[pb.LinuxNamespace(type=kind, path=path) for kind, path in facts.namespaces],
        pod_overhead=None if facts.overhead is None else resources(facts.overhead),
        pod_resources=None if facts.resources is None else resources(facts.resources),
    )
    return pb.PodSandbox(
        id=facts.pod_id,
        name=facts.name,
        uid=facts.uid,
        namespace=facts.namespace,
        labels=facts.labels,
        annotations=facts.annotations,
        runtime_handler=facts.handler,
        linux=linux,
        pid=facts.pid,
        ips=facts.ips,
    )


def container(facts: ContainerFacts) -> pb.Container:
    """NRI Container.

    Raises:
        InvalidRequest: its specification has a number that NRI cannot carry, from a seccomp profile for instance.
    """
    try:
        return _container(facts)
    except ValueError as error:  # protobuf's word for a number out of range
        raise InvalidRequest(f"container {facts.container_id} cannot be told to plugins: {error}") from error


def _container(facts: ContainerFacts) -> pb.Container:
    spec = facts.spec
    process = spec.get("process", {})
    user = process.get("user", {})
    return pb.Container(
        id=facts.container_id,
        pod_sandbox_id=facts.pod_id,
        name=facts.name,
        state=pb.ContainerState.ValueType(facts.state),
        labels=facts.labels,
        annotations={**facts.annotations, **spec.get("annotations", {})},
        args=process.get("args", ()),
        env=process.get("env", ()),
        mounts=[_mount(one) for one in spec.get("mounts", ())],
        hooks=_hooks_of(spec.get("hooks", {})),
        linux=_linux(spec.get("linux", {}), process),
        pid=facts.pid,
        rlimits=[
            pb.POSIXRlimit(type=one["type"], hard=one["hard"], soft=one["soft"]) for one in process.get("rlimits", ())
        ],
        created_at=facts.created_at_ns,
        started_at=facts.started_at_ns,
        finished_at=facts.finished_at_ns,
        exit_code=facts.exit_code,
        status_reason=facts.reason,
        user=pb.User(uid=user.get("uid", 0), gid=user.get("gid", 0), additional_gids=user.get("additionalGids", ())),
    )


def resources(wanted: Resources) -> pb.LinuxResources:
    """NRI LinuxResources."""
    memory = pb.LinuxMemory(
        limit=_int64(wanted.memory_limit),
        reservation=_int64(wanted.memory_reservation),
        swap=_int64(wanted.memory_swap),
        kernel=_int64(wanted.memory_kernel),
        kernel_tcp=_int64(wanted.memory_kernel_tcp),
        swappiness=_uint64(wanted.memory_swappiness),
        disable_oom_killer=_bool(wanted.memory_disable_oom_killer),
        use_hierarchy=_bool(wanted.memory_use_hierarchy),
    )
    cpu = pb.LinuxCPU(
        shares=_uint64(wanted.cpu_shares),
        quota=_int64(wanted.cpu_quota),
        period=_uint64(wanted.cpu_period),
        realtime_runtime=_int64(wanted.cpu_realtime_runtime),
        realtime_period=_uint64(wanted.cpu_realtime_period),
        cpus=wanted.cpu_cpus or "",
        mems=wanted.cpu_mems or "",
    )
    return pb.LinuxResources(
        memory=memory,
        cpu=cpu,
        hugepage_limits=[pb.HugepageLimit(page_size=size, limit=limit) for size, limit in wanted.hugepages.items()],
        unified=wanted.unified,
        pids=None if wanted.pids_limit is None else pb.LinuxPids(limit=wanted.pids_limit),
        devices=[
            pb.LinuxDeviceCgroup(
                allow=one.allow, type=one.kind, major=_int64(one.major), minor=_int64(one.minor), access=one.access
            )
            for one in wanted.devices
        ],
    )


def adjustment(wanted: Adjustment) -> pb.ContainerAdjustment:
    """NRI ContainerAdjustment, for plugins that judge what others want."""
    linux = pb.LinuxContainerAdjustment(
        devices=[_node(one) for one in wanted.devices],
        resources=None if wanted.resources is None else resources(wanted.resources),
        oom_score_adj=None if wanted.oom_score_adj is None else pb.OptionalInt(value=wanted.oom_score_adj),
        seccomp_policy=None if wanted.seccomp is None else _seccomp(wanted.seccomp),
        namespaces=[pb.LinuxNamespace(type=kind, path=path) for kind, path in wanted.namespaces],
        sysctl=wanted.sysctl,
        io_priority=_io_priority(wanted.io_priority),
        scheduler=_scheduler(wanted.scheduler),
        rdt=None if wanted.rdt is None else _rdt(wanted.rdt),
    )
    return pb.ContainerAdjustment(
        CDI_devices=[pb.CDIDevice(name=name) for name in wanted.cdi_devices],
        annotations=wanted.annotations,
        mounts=[
            pb.Mount(destination=one.destination, type=one.kind, source=one.source, options=one.options)
            for one in wanted.mounts
        ],
        env=[pb.KeyValue(key=key, value=value) for key, value in wanted.env],
        args=wanted.args,
        hooks=pb.Hooks(**{SNAKE[name]: [_hook(one) for one in hooks] for name, hooks in wanted.hooks.items()}),
        rlimits=[pb.POSIXRlimit(type=one.kind, hard=one.hard, soft=one.soft) for one in wanted.rlimits],
        linux=linux,
    )


def owners(changes: Iterable[Change]) -> pb.FieldOwners:
    """NRI FieldOwners: which plugin set what."""
    made = pb.FieldOwners()
    for change in changes:
        field = FIELDS.get(change.field)
        if field is None:
            continue  # a removal: NRI has no field for it
        if change.key:
            made.compound[field].owners[change.key] = change.plugin
        else:
            made.simple[field] = change.plugin
    return made


# --- parts -----------------------------------------------------------------------------------------------------------


def _linux(spec: Spec, process: Spec) -> pb.LinuxContainer:
    score = process.get("oomScoreAdj")
    return pb.LinuxContainer(
        namespaces=[
            pb.LinuxNamespace(type=one["type"], path=one.get("path", "")) for one in spec.get("namespaces", ())
        ],
        devices=[_device(one) for one in spec.get("devices", ())],
        resources=resources(resources_of(spec.get("resources", {}))),
        oom_score_adj=None if score is None else pb.OptionalInt(value=score),
        cgroups_path=spec.get("cgroupsPath", ""),
        seccomp_policy=_seccomp(spec["seccomp"]) if "seccomp" in spec else None,
        sysctl=spec.get("sysctl", {}),
        io_priority=_io_priority(process.get("ioPriority")),
        scheduler=_scheduler(process.get("scheduler")),
        rdt=_rdt_of(spec["intelRdt"]) if "intelRdt" in spec else None,
    )


def _io_priority(spec: Spec | None) -> pb.LinuxIOPriority | None:
    if spec is None:
        return None
    return pb.LinuxIOPriority(**{**spec, "class": spec.get("class", "IOPRIO_CLASS_NONE")})


def _scheduler(spec: Spec | None) -> pb.LinuxScheduler | None:
    return None if spec is None else pb.LinuxScheduler(**{**spec, "policy": spec.get("policy", "SCHED_NONE")})


def _rdt_of(spec: Spec) -> pb.LinuxRdt:
    schemata = spec.get("schemata")
    return _rdt(
        Rdt(
            clos_id=spec.get("closID"),
            schemata=None if schemata is None else tuple(schemata),
            monitoring=spec.get("enableMonitoring"),
        )
    )


def _rdt(rdt: Rdt) -> pb.LinuxRdt:
    return pb.LinuxRdt(
        clos_id=None if rdt.clos_id is None else pb.OptionalString(value=rdt.clos_id),
        schemata=None if rdt.schemata is None else pb.OptionalRepeatedString(value=rdt.schemata),
        enable_monitoring=_bool(rdt.monitoring),
        remove=rdt.removed,
    )


def _mount(spec: Spec) -> pb.Mount:
    return pb.Mount(
        destination=spec["destination"],
        type=spec.get("type", ""),
        source=spec.get("source", ""),
        options=spec.get("options", ()),
    )


def _device(spec: Spec) -> pb.LinuxDevice:
    return _node(
        Device(
            path=spec["path"],
            kind=spec["type"],
            major=spec.get("major", 0),
            minor=spec.get("minor", 0),
            file_mode=spec.get("fileMode"),
            uid=spec.get("uid"),
            gid=spec.get("gid"),
        )
    )


def _node(device: Device) -> pb.LinuxDevice:
    return pb.LinuxDevice(
        path=device.path,
        type=device.kind,
        major=device.major,
        minor=device.minor,
        file_mode=None if device.file_mode is None else pb.OptionalFileMode(value=device.file_mode),
        uid=_uint32(device.uid),
        gid=_uint32(device.gid),
    )


def _hooks_of(spec: Mapping[str, Sequence[Spec]]) -> pb.Hooks:
    made = {
        SNAKE[name]: [
            _hook(
                Hook(
                    path=one["path"],
                    args=tuple(one.get("args", ())),
                    env=tuple(one.get("env", ())),
                    timeout_s=one.get("timeout"),
                )
            )
            for one in hooks
        ]
        for name, hooks in spec.items()
        if name in SNAKE
    }
    return pb.Hooks(**made)


def _hook(hook: Hook) -> pb.Hook:
    timeout = None if hook.timeout_s is None else pb.OptionalInt(value=hook.timeout_s)
    return pb.Hook(path=hook.path, args=hook.args, env=hook.env, timeout=timeout)


def _seccomp(spec: Spec) -> pb.LinuxSeccomp:
    return pb.LinuxSeccomp(
        default_action=spec["defaultAction"],
        default_errno=_uint32(spec.get("defaultErrnoRet")),
        architectures=spec.get("architectures", ()),
        flags=spec.get("flags", ()),
        listener_path=spec.get("listenerPath", ""),
        listener_metadata=spec.get("listenerMetadata", ""),
        syscalls=[
            pb.LinuxSyscall(
                names=one["names"],
                action=one["action"],
                errno_ret=_uint32(one.get("errnoRet")),
                args=[
                    pb.LinuxSeccompArg(
                        index=arg["index"], value=arg["value"], value_two=arg.get("valueTwo", 0), op=arg["op"]
                    )
                    for arg in one.get("args", ())
                ],
            )
            for one in spec.get("syscalls", ())
        ],
    )


def _int64(value: int | None) -> pb.OptionalInt64 | None:
    return None if value is None else pb.OptionalInt64(value=value)


def _uint64(value: int | None) -> pb.OptionalUInt64 | None:
    return None if value is None else pb.OptionalUInt64(value=value)


def _uint32(value: int | None) -> pb.OptionalUInt32 | None:
    return None if value is None else pb.OptionalUInt32(value=value)


def _bool(value: bool | None) -> pb.OptionalBool | None:
    return None if value is None else pb.OptionalBool(value=value)
