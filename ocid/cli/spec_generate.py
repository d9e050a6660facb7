"""``ocid spec generate``: the command line and what it points at, put together for the generator."""

from __future__ import annotations

import argparse
from typing import Any, Final

import msgspec

from ocid.cli import spec_host, spec_text
from ocid.domain.configs import LinuxResources
from ocid.domain.spec.generate import ROOTFS, generate
from ocid.domain.spec.inputs import DeviceNode, ExtraMount
from ocid.domain.spec.options import HOST, SpecOptions
from ocid.domain.spec.seccomp import PROFILE_BYTES_MAX
from ocid.domain.spec.users import FILE_BYTES_MAX
from ocid.domain.spec.validate import CONFIG_BYTES_MAX, decode, validate
from ocid.domain.spec.validate_process import HOOKS
from ocid.errors import InvalidRequest

ENV_FILE_BYTES_MAX: Final = 1024 * 1024


def spec_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the config.json that *args* ask for.

    Raises:
        InvalidRequest: they are malformed, or what they make is no valid config.json.
    """
    spec: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(generate(options(args), template(args.template))))
    faults = validate(spec)
    if faults:
        others = f", and {len(faults) - 1} more faults" if len(faults) > 1 else ""
        raise InvalidRequest(f"this would be no valid config.json: {faults[0].path} {faults[0].message}{others}")
    return spec


def template(path: str) -> dict[str, Any] | None:
    """Read the config.json to start from, None where none is named."""
    if not path:
        return None
    spec, faults = decode(spec_host.read(path, CONFIG_BYTES_MAX + 1))
    if faults:
        raise InvalidRequest(f"template {path!r} {faults[0].message}")
    if not isinstance(spec, dict):
        raise InvalidRequest(f"template {path!r} is no JSON object")
    return spec


def options(args: argparse.Namespace) -> SpecOptions:
    """Read the command line, and the files and devices that it names."""
    security = _security_options(args.security_opt)
    seccomp = args.seccomp or security.get("seccomp", "")
    rootfs = args.rootfs or ROOTFS
    return SpecOptions(
        args=(*args.args, *args.command_line),
        env=(*_env_files(args.env_file), *args.env),
        cwd=args.cwd,
        user=args.user,
        uid=args.uid,
        gid=args.gid,
        groups=tuple(args.groups),
        tty=args.tty,
        cap_add=tuple(args.cap_add),
        cap_drop=tuple(args.cap_drop),
        cap_ambient=tuple(args.cap_add_ambient),
        no_new_privileges=args.no_new_privileges or ("no-new-privileges" in security or None),
        rlimits=tuple(map(spec_text.rlimit, args.rlimits)),
        oom_score_adj=args.oom_score_adj,
        apparmor=args.apparmor if args.apparmor is not None else security.get("apparmor"),
        selinux_label=args.selinux_label if args.selinux_label is not None else security.get("label"),
        mount_label=args.mount_label,
        mounts=_mounts(args),
        mounts_removed=tuple(args.mounts_remove),
        namespaces=_namespaces(args),
        uid_mappings=tuple(map(spec_text.id_mapping, args.uidmap)),
        gid_mappings=tuple(map(spec_text.id_mapping, args.gidmap)),
        seccomp=seccomp,
        seccomp_profile=_profile(seccomp),
        resources=_resources(args),
        pids_limit=args.pids_limit,
        cgroups_path=args.cgroups_path,
        devices=tuple(_device(text) for text in args.device),
        host_devices=spec_host.all_devices() if args.privileged else (),
        hostname=args.hostname,
        rootfs=args.rootfs,
        readonly=args.readonly,
        rootfs_propagation=args.rootfs_propagation,
        masked_paths=(*args.masked_paths, *filter(None, security.get("mask", "").split(":"))),
        readonly_paths=tuple(args.readonly_paths),
        unmask=args.unmask or "unmask" in security,
        annotations=spec_text.pairs(args.annotation, "--annotation"),
        hooks={kind: tuple(map(spec_text.hook, texts)) for kind in HOOKS if (texts := getattr(args, f"hooks_{kind}"))},
        sysctl=spec_text.pairs(args.sysctl, "--sysctl"),
        privileged=args.privileged,
        passwd=spec_host.accounts(rootfs, "passwd", FILE_BYTES_MAX),
        group=spec_host.accounts(rootfs, "group", FILE_BYTES_MAX),
        host=spec_host.facts(),
    )


def _security_options(texts: list[str]) -> dict[str, str]:
    """``--security-opt``, in podman's spelling."""
    found = {}
    for text in texts:
        name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
        if name not in ("seccomp", "apparmor", "label", "no-new-privileges", "mask", "unmask"):
            raise InvalidRequest(f"--security-opt {text[:100]!r} is unknown")
        if name == "unmask" and value.upper() != "ALL":
            raise InvalidRequest(f"--security-opt {text[:100]!r}: wanted unmask=ALL")
        found[name] = value
    return found


def _namespaces(args: argparse.Namespace) -> dict[str, str]:
    found = {}
    for kind in ("network", "pid", "ipc", "uts", "user", "cgroup", "time"):
        text = getattr(args, f"namespace_{kind}")
        if text:
            found[kind] = spec_text.namespace(kind, text)
    found |= dict(map(spec_text.namespace_added, args.linux_namespace_add))
    found |= {kind: HOST for kind, _ in map(spec_text.namespace_added, args.linux_namespace_remove)}
    return found


def _mounts(args: argparse.Namespace) -> tuple[ExtraMount, ...]:
    return (
        *map(spec_text.mount, args.mount),
        *map(spec_text.bind, args.volume),
        *map(spec_text.tmpfs, args.tmpfs),
    )


def _resources(args: argparse.Namespace) -> LinuxResources:
    quota, period = args.cpu_quota, args.cpu_period
    if args.cpus:
        if quota or period:
            raise InvalidRequest("--cpus is --cpu-quota with a --cpu-period of 100 ms: wanted one or the others")
        quota, period = spec_text.cpu_quota(args.cpus), spec_text.CPU_PERIOD_US
    return LinuxResources(
        cpu_period=period,
        cpu_quota=quota,
        cpu_shares=args.cpu_shares,
        memory_limit_in_bytes=spec_text.size(args.memory, "--memory"),
        memory_swap_limit_in_bytes=spec_text.size(args.memory_swap, "--memory-swap"),
        cpuset_cpus=args.cpuset_cpus,
        cpuset_mems=args.cpuset_mems,
        hugepage_limits=tuple(map(spec_text.hugepages, args.hugepage_limit)),
        unified=spec_text.pairs(args.unified, "--cgroup-conf"),
    )


def _profile(seccomp: str) -> bytes:
    return b"" if seccomp in ("", "default", "unconfined") else spec_host.read(seccomp, PROFILE_BYTES_MAX + 1)


def _device(text: str) -> DeviceNode:
    return spec_host.device(*spec_text.device(text))


def _env_files(paths: list[str]) -> list[str]:
    lines: list[str] = []
    for path in paths:
        text = spec_host.read(path, ENV_FILE_BYTES_MAX).decode("utf-8", "replace")
        lines += [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return lines
