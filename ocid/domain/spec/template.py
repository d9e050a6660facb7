"""A config.json that somebody else made, changed in what is asked for and in nothing else.

The new values come from a whole spec that was built for the same options; here is only which of them go where.
Lists are changed item by item: a mount by its destination, a namespace by its type, a variable by its name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ocid.domain.spec.options import SpecOptions
from ocid.errors import InvalidRequest

Spec = dict[str, Any]


def capabilities(template: Spec) -> tuple[str, ...]:
    """The bounding set of a template, which added and dropped capabilities change."""
    sets = _object(_object(template, "process"), "capabilities")
    return tuple(str(name) for name in sets.get("bounding") or ())


def changed(template: Spec, built: Spec, options: SpecOptions) -> Spec:
    """Return *template* with what *options* ask for taken from *built*.

    Raises:
        InvalidRequest: the template has something else than an object or array where one has to be.
    """
    spec = copy.deepcopy(template)
    _process(_object(spec, "process"), built["process"], options)
    _root(spec, built, options)
    _mounts(spec, built, options)
    _linux(_object(spec, "linux"), built["linux"], options)
    if options.privileged:
        _privileged(spec, built)
    if options.annotations:
        _object(spec, "annotations").update(options.annotations)
    for kind, hooks in built.get("hooks", {}).items():
        _array(_object(spec, "hooks"), kind).extend(hooks)
    if options.hostname:
        spec["hostname"] = options.hostname
    return {key: value for key, value in spec.items() if value or key in template}


def _process(process: Spec, built: Spec, options: SpecOptions) -> None:
    given = {
        "args": bool(options.args),
        "cwd": bool(options.cwd),
        "terminal": options.tty is not None,
        "capabilities": bool(options.cap_add or options.cap_drop or options.cap_ambient),
        "noNewPrivileges": options.no_new_privileges is not None,
        "oomScoreAdj": options.oom_score_adj is not None,
        "apparmorProfile": options.apparmor is not None,
        "selinuxLabel": options.selinux_label is not None,
        "user": bool(options.user) or options.uid is not None,
    }
    _take(process, built, given)
    if options.groups and not given["user"]:
        _object(process, "user")["additionalGids"] = list(options.groups)
    if options.env:
        _by(_array(process, "env"), list(options.env), lambda line: str(line).partition("=")[0])
    if options.rlimits:
        _by(_array(process, "rlimits"), built["rlimits"], lambda one: one["type"])


def _root(spec: Spec, built: Spec, options: SpecOptions) -> None:
    given = {"path": bool(options.rootfs), "readonly": options.readonly is not None}
    _take(_object(spec, "root"), built["root"], given)


def _mounts(spec: Spec, built: Spec, options: SpecOptions) -> None:
    wanted = {one.destination.rstrip("/") for one in options.mounts}
    new = [one for one in built["mounts"] if one["destination"] in wanted]
    kept = [one for one in _array(spec, "mounts") if one.get("destination") not in options.mounts_removed]
    _by(kept, new, lambda one: one["destination"])
    spec["mounts"] = kept


def _linux(linux: Spec, built: Spec, options: SpecOptions) -> None:
    given = {
        "cgroupsPath": bool(options.cgroups_path),
        "seccomp": bool(options.seccomp),
        "rootfsPropagation": "rootfsPropagation" in built,
        "maskedPaths": bool(options.masked_paths) or options.unmask,
        "readonlyPaths": bool(options.readonly_paths) or options.unmask,
        "mountLabel": options.mount_label is not None,
        "uidMappings": "uidMappings" in built,
        "gidMappings": "gidMappings" in built,
    }
    _take(linux, built, given)
    _namespaces(linux, built, options)
    if options.sysctl:
        _object(linux, "sysctl").update(options.sysctl)
    if options.devices:
        _by(_array(linux, "devices"), built["devices"], lambda one: one["path"])
    _resources(linux, built["resources"], options)


def _namespaces(linux: Spec, built: Spec, options: SpecOptions) -> None:
    asked = {*options.namespaces, *(("user",) if "uidMappings" in built else ())}
    if not asked:
        return
    listed = {one["type"]: one for one in built["namespaces"]}
    kept = [one for one in _array(linux, "namespaces") if one.get("type") not in asked]
    linux["namespaces"] = [*kept, *(listed[kind] for kind in sorted(asked & listed.keys()))]


def _resources(linux: Spec, built: Spec, options: SpecOptions) -> None:
    new = {name: value for name, value in built.items() if name != "devices"}
    if not new and not options.devices:
        return
    resources = _object(linux, "resources")
    for name, value in new.items():
        if name == "hugepageLimits":
            _by(_array(resources, name), value, lambda one: one["pageSize"])
        else:
            _object(resources, name).update(value)
    if options.devices:
        allowed = built["devices"][-len(options.devices) :]
        _array(resources, "devices").extend(one for one in allowed if one["allow"])


def _privileged(spec: Spec, built: Spec) -> None:
    """All capabilities and devices, nothing masked, no profile, and the kernel's file systems writable."""
    process, linux = _object(spec, "process"), _object(spec, "linux")
    process["capabilities"] = built["process"]["capabilities"]
    process.pop("apparmorProfile", None)
    linux.pop("seccomp", None)
    for name in ("maskedPaths", "readonlyPaths", "devices"):
        linux[name] = built["linux"][name]
    _object(linux, "resources")["devices"] = built["linux"]["resources"]["devices"]
    writable = [one for one in built["mounts"] if one["destination"] in ("/sys", "/sys/fs/cgroup")]
    _by(_array(spec, "mounts"), writable, lambda one: one["destination"])


# --- parts -----------------------------------------------------------------------------------------------------------


def _take(target: Spec, built: Spec, given: dict[str, bool]) -> None:
    """Set what is given; what is given and not in the new spec is taken away."""
    for name, is_given in given.items():
        if is_given and name in built:
            target[name] = built[name]
        elif is_given:
            target.pop(name, None)


def _by(listed: list[Any], new: list[Any], key: Callable[[Any], object]) -> None:
    """Put each of *new* where the list has one with the same key, else at its end."""
    places = {}
    for index, one in enumerate(listed):
        try:
            places[key(one)] = index
        except (KeyError, TypeError):  # a broken item of the template; the validator tells
            continue
    for one in new:
        if key(one) in places:
            listed[places[key(one)]] = one
        else:
            places[key(one)] = len(listed)
            listed.append(one)


def _object(parent: Spec, name: str) -> Spec:
    found = parent.get(name)
    if found is None:
        found = parent[name] = {}
    if not isinstance(found, dict):
        raise InvalidRequest(f"the template's {name!r} is no object")
    return found


def _array(parent: Spec, name: str) -> list[Any]:
    found = parent.get(name)
    if found is None:
        found = parent[name] = []
    if not isinstance(found, list):
        raise InvalidRequest(f"the template's {name!r} is no array")
    return found
