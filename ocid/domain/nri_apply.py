"""Put what a plugin wants into an OCI runtime spec. Pure; the spec given is never changed, and shares with the result.

Plugins are asked one after the other, and each sees the spec as those before it left it. What a plugin removes, any
plugin after it may set anew.

Source: NRI, "Container Adjustment"; OCI runtime-spec config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ocid.domain.nri import Adjustment, Device, DeviceRule, Hook, Rdt, Resources
from ocid.domain.nri_owners import Owners
from ocid.errors import InvalidRequest, Unsupported

Spec = Mapping[str, Any]

HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_MEMORY: Final = (
    ("memory_limit", "limit"),
    ("memory_reservation", "reservation"),
    ("memory_swap", "swap"),
    ("memory_kernel", "kernel"),
    ("memory_kernel_tcp", "kernelTCP"),
    ("memory_swappiness", "swappiness"),
    ("memory_disable_oom_killer", "disableOOMKiller"),
    ("memory_use_hierarchy", "useHierarchy"),
)
_CPU: Final = (
    ("cpu_shares", "shares"),
    ("cpu_quota", "quota"),
    ("cpu_period", "period"),
    ("cpu_realtime_runtime", "realtimeRuntime"),
    ("cpu_realtime_period", "realtimePeriod"),
    ("cpu_cpus", "cpus"),
    ("cpu_mems", "mems"),
)


def adjust(spec: Spec, wanted: Adjustment, plugin: str, owners: Owners) -> dict[str, Any]:
    """Return *spec* as *plugin* wants it.

    Raises:
        AlreadyExists: it sets what a plugin before it has set.
        Unsupported: it sets something that this build cannot do.
        InvalidRequest: what it sets means nothing.
    """
    if wanted.refused:
        raise Unsupported(f"plugin {plugin} sets {', '.join(wanted.refused)}, which this build cannot do")
    claims = _Claims(plugin, owners)
    process = dict(spec["process"])
    process["env"] = _variables(process.get("env", ()), wanted.env, claims)
    process["args"] = _arguments(process.get("args", ()), wanted.args, claims)
    if wanted.rlimits:
        process["rlimits"] = _rlimits(process.get("rlimits", ()), wanted, claims)
    if wanted.oom_score_adj is not None:
        claims.set("oom score")
        process["oomScoreAdj"] = wanted.oom_score_adj
    for name, field, value in (
        ("ioPriority", "io priority", wanted.io_priority),
        ("scheduler", "scheduler", wanted.scheduler),
    ):
        if value is not None:
            claims.set(field)
            process = {key: one for key, one in process.items() if key != name} | ({name: value} if value else {})
    for device in wanted.cdi_devices:
        claims.set("cdi devices", device)
    changed: dict[str, Any] = {
        **spec,
        "process": process,
        "annotations": _pairs("annotations", spec.get("annotations", {}), wanted.annotations, claims),
        "mounts": _mounts(spec.get("mounts", ()), wanted, claims),
        "linux": _linux(spec.get("linux", {}), wanted, claims),
    }
    if any(wanted.hooks.values()):
        changed["hooks"] = _hooks(spec.get("hooks", {}), wanted.hooks, claims)
    return changed


class _Claims:
    """What one plugin claims."""

    def __init__(self, plugin: str, owners: Owners) -> None:
        self.plugin = plugin
        self._owners = owners

    def set(self, field: str, key: str = "") -> None:
        self._owners.clear(f"{field} removed", key)
        self._owners.claim(self.plugin, field, key)

    def added(self, field: str, key: str) -> None:
        self._owners.note(self.plugin, field, key)

    def removed(self, field: str, key: str = "") -> None:
        self._owners.clear(field, key)
        self._owners.note(self.plugin, f"{field} removed", key)


def _split(names: Sequence[str], what: str, claims: _Claims) -> tuple[list[str], list[str]]:
    """Return the names to remove and those to set, and claim them."""
    gone = [name[1:] for name in names if name.startswith("-")]
    there = [name for name in names if not name.startswith("-")]
    if "" in gone or "" in there:
        raise InvalidRequest(f"plugin {claims.plugin}: an entry of {what} has no name")
    for name in gone:
        claims.removed(what, name)
    for name in there:
        claims.set(what, name)
    return gone, there


def _pairs(what: str, old: Mapping[str, str], wanted: Mapping[str, str], claims: _Claims) -> dict[str, str]:
    gone, there = _split(list(wanted), what, claims)
    return {key: value for key, value in old.items() if key not in gone} | {key: wanted[key] for key in there}


def _variables(old: Sequence[str], wanted: Sequence[tuple[str, str]], claims: _Claims) -> list[str]:
    """A variable that is there already keeps its place."""
    gone, _ = _split([name for name, _ in wanted], "env", claims)
    left = {name: value for name, value in wanted if not name.startswith("-")}
    for name, value in left.items():
        if "=" in name or "\0" in name + value:
            raise InvalidRequest(
                f"plugin {claims.plugin}: {name[:64]!r} is no name, or its value no value, of a variable"
            )
    made: list[str] = []
    for one in old:
        name = one.partition("=")[0]
        if name in left:
            made.append(f"{name}={left.pop(name)}")
        elif name not in gone:
            made.append(one)
    return made + [f"{name}={value}" for name, value in left.items()]


def _arguments(old: Sequence[str], wanted: Sequence[str], claims: _Claims) -> list[str]:
    if not wanted:
        return list(old)
    if wanted[0] == "":
        claims.removed("args")
        wanted = wanted[1:]
    if not wanted:
        raise InvalidRequest(f"plugin {claims.plugin} leaves the container without a program")
    claims.set("args")
    return list(wanted)


def _rlimits(old: Sequence[Spec], wanted: Adjustment, claims: _Claims) -> list[dict[str, Any]]:
    made = {one["type"]: dict(one) for one in old}
    for limit in wanted.rlimits:
        claims.set("rlimits", limit.kind)
        if limit.soft > limit.hard:
            raise InvalidRequest(
                f"plugin {claims.plugin}: {limit.kind[:64]} is {limit.soft}, above its ceiling {limit.hard}"
            )
        made[limit.kind] = {"type": limit.kind, "soft": limit.soft, "hard": limit.hard}
    return list(made.values())


def _mounts(old: Sequence[Spec], wanted: Adjustment, claims: _Claims) -> list[dict[str, Any]]:
    """Mounts that a plugin adds come last, but those above others before them."""
    gone, there = _split([mount.destination for mount in wanted.mounts], "mounts", claims)
    kept = [dict(mount) for mount in old if mount["destination"] not in (*gone, *there)]
    for mount in wanted.mounts:
        if mount.destination.startswith("-"):
            continue
        if not mount.destination.startswith("/"):
            raise InvalidRequest(
                f"plugin {claims.plugin}: mount destination {mount.destination[:64]!r} is not absolute"
            )
        kept.append(
            {
                "destination": mount.destination,
                "type": mount.kind or "bind",
                "source": mount.source,
                "options": list(mount.options),
            }
        )
    if there:
        kept.sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))  # stable: only depth counts
    return kept


def _hooks(
    old: Mapping[str, Sequence[Spec]], wanted: Mapping[str, Sequence[Hook]], claims: _Claims
) -> dict[str, list[Any]]:
    """Hooks add up; they never conflict."""
    made = {name: list(hooks) for name, hooks in old.items()}
    for name in HOOKS:
        for hook in wanted.get(name, ()):
            claims.added("hooks", f"{name} {hook.path}")
            one: dict[str, Any] = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
            if hook.timeout_s is not None:
                one["timeout"] = hook.timeout_s
            made.setdefault(name, []).append(one)
    return made


def _linux(old: Spec, wanted: Adjustment, claims: _Claims) -> dict[str, Any]:
    linux = dict(old)
    resources = dict(linux.get("resources", {}))
    if wanted.devices:
        linux["devices"], resources["devices"] = _devices(linux, resources, wanted.devices, claims)
    if wanted.resources is not None:
        resources = changed_resources(resources, wanted.resources, claims.set)
    if wanted.devices or wanted.resources is not None:
        linux["resources"] = resources
    if wanted.sysctl:
        linux["sysctl"] = _pairs("sysctl", linux.get("sysctl", {}), wanted.sysctl, claims)
    if wanted.namespaces:
        linux["namespaces"] = _namespaces(linux.get("namespaces", ()), wanted.namespaces, claims)
    if wanted.rdt is not None:
        linux = _rdt(linux, wanted.rdt, claims)
    if wanted.seccomp is not None:
        if "defaultAction" not in wanted.seccomp:
            raise InvalidRequest(f"plugin {claims.plugin}: a seccomp policy has no default action")
        claims.set("seccomp")
        linux["seccomp"] = wanted.seccomp
    propagations = {option for mount in wanted.mounts for option in mount.options}
    for propagation, options in (("rslave", {"slave", "rslave"}), ("rshared", {"shared", "rshared"})):
        if options & propagations and linux.get("rootfsPropagation") != "rshared":
            linux["rootfsPropagation"] = propagation  # as for mounts of the kubelet: they cannot exceed the root's
    return linux


def _rdt(linux: Spec, wanted: Rdt, claims: _Claims) -> dict[str, Any]:
    rdt = {} if wanted.removed else dict(linux.get("intelRdt", {}))
    for field, name, value in (
        ("rdt class", "closID", wanted.clos_id),
        ("rdt schemata", "schemata", wanted.schemata),
        ("rdt monitoring", "enableMonitoring", wanted.monitoring),
    ):
        if wanted.removed:
            claims.removed(field)
        if value is not None:
            claims.set(field)
            rdt[name] = list(value) if isinstance(value, tuple) else value
    return {key: one for key, one in linux.items() if key != "intelRdt"} | ({"intelRdt": rdt} if rdt else {})


def _namespaces(old: Sequence[Spec], wanted: Sequence[tuple[str, str]], claims: _Claims) -> list[dict[str, str]]:
    gone, there = _split([kind for kind, _ in wanted], "namespaces", claims)
    kept = [dict(one) for one in old if one["type"] not in (*gone, *there)]
    for kind, path in wanted:
        if not kind.startswith("-"):
            kept.append({"type": kind, "path": path} if path else {"type": kind})
    return kept


def _devices(
    linux: Spec, resources: Spec, wanted: Sequence[Device], claims: _Claims
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return nodes and cgroup rules: a device that is added may be used, too."""
    gone, there = _split([device.path for device in wanted], "devices", claims)
    nodes = [dict(one) for one in linux.get("devices", ()) if one["path"] not in (*gone, *there)]
    rules = list(resources.get("devices", ()))
    for device in wanted:
        if device.path.startswith("-"):
            continue
        if not device.path.startswith("/") or device.kind not in ("b", "c", "u", "p"):
            raise InvalidRequest(
                f"plugin {claims.plugin}: device {device.path[:64]!r} of type {device.kind[:8]!r}; "
                f"wanted an absolute path and b, c, u or p"
            )
        node: dict[str, Any] = {"path": device.path, "type": device.kind, "major": device.major, "minor": device.minor}
        optional = {"fileMode": device.file_mode, "uid": device.uid, "gid": device.gid}
        nodes.append(node | {name: value for name, value in optional.items() if value is not None})
        if device.kind != "p":
            kind = "c" if device.kind == "u" else device.kind
            numbers = {"major": device.major, "minor": device.minor}
            rules.append({"allow": True, "type": kind, **numbers, "access": device.access})
    return nodes, rules


# --- resources -------------------------------------------------------------------------------------------------------


def changed_resources(old: Spec, wanted: Resources, claim: Callable[[str, str], None]) -> dict[str, Any]:
    """Return OCI linux.resources *old* with what *wanted* says; *claim* gets field and key of each.

    A new memory limit without a swap limit allows no swap beyond it, where *old* limits swap.
    """
    made = dict(old)
    for part, names in (("memory", _MEMORY), ("cpu", _CPU)):
        said = {oci: value for name, oci in names if (value := getattr(wanted, name)) is not None}
        for oci in said:
            claim(f"{part} {oci}", "")
        if part == "memory" and "limit" in said and "swap" not in said and "swap" in made.get(part, {}):
            said["swap"] = said["limit"]
        if said:
            made[part] = {**made.get(part, {}), **said}
    if wanted.pids_limit is not None:
        claim("pids limit", "")
        made["pids"] = {"limit": wanted.pids_limit}
    if wanted.hugepages:
        pages = {one["pageSize"]: one["limit"] for one in made.get("hugepageLimits", ())} | wanted.hugepages
        made["hugepageLimits"] = [{"pageSize": size, "limit": limit} for size, limit in pages.items()]
        for size in wanted.hugepages:
            claim("huge pages", size)
    if wanted.unified:
        made["unified"] = {**made.get("unified", {}), **wanted.unified}
        for name in wanted.unified:
            claim("unified", name)
    if wanted.devices:
        made["devices"] = [*made.get("devices", ()), *(_rule(one) for one in wanted.devices)]
    return made


def resources_of(spec: Spec) -> Resources:
    """Read OCI linux.resources."""
    memory, cpu = spec.get("memory", {}), spec.get("cpu", {})
    said = {name: memory[oci] for name, oci in _MEMORY if oci in memory}
    said |= {name: cpu[oci] for name, oci in _CPU if oci in cpu}
    pids = spec.get("pids", {}).get("limit")
    made = Resources(
        pids_limit=pids,
        hugepages={one["pageSize"]: one["limit"] for one in spec.get("hugepageLimits", ())},
        unified=dict(spec.get("unified", {})),
        devices=tuple(
            DeviceRule(
                allow=one["allow"],
                kind=one.get("type", ""),
                major=one.get("major"),
                minor=one.get("minor"),
                access=one.get("access", ""),
            )
            for one in spec.get("devices", ())
        ),
    )
    return msgspec.structs.replace(made, **said)


def _rule(rule: DeviceRule) -> dict[str, Any]:
    made: dict[str, Any] = {"allow": rule.allow, "access": rule.access}
    optional = {"type": rule.kind or None, "major": rule.major, "minor": rule.minor}
    return made | {name: value for name, value in optional.items() if value is not None}
