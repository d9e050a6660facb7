"""What plugins want that is not theirs to spell out, or that not every OCI runtime knows. Pure.

CDI devices are names; what they add is in the node's specifications. An OCI runtime that is older than a field of the
specification makes the container without a word, as if it had not been there: so it is asked what it knows.

Source: NRI, "Container Adjustment"; CDI SPEC.md; OCI runtime-spec ChangeLog, features.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ocid.domain import cdi
from ocid.domain.nri import Adjustment, Device, Hook, Mount
from ocid.domain.nri_apply import adjust
from ocid.domain.nri_owners import Owners
from ocid.domain.spec.classes import NAME_BYTES_MAX
from ocid.domain.spec.inputs import DeviceNode, HostFacts
from ocid.domain.spec.validate_process import IO_CLASSES, POLICIES, SCHEDULER_FLAGS
from ocid.errors import InvalidRequest, Unsupported
from ocid.ids import digest_of

CDI: Final = "CDI"
ANNOTATION: Final = "io.ocid.cdi.plugins"  # digest of what the CDI devices that plugins add have added
_SCHEMATA_MAX: Final = 64
_SCHEMA_CHARS_MAX: Final = 1024
_SINCE: Final = (  # object of the specification, field, version that has it first
    ("process", "ioPriority", (1, 1)),
    ("process", "scheduler", (1, 1)),
    ("intelRdt", "schemata", (1, 3)),
    ("intelRdt", "enableMonitoring", (1, 3)),
)


def with_cdi(
    spec: Mapping[str, Any], edits: cdi.Edits, nodes: Sequence[DeviceNode], container_id: str
) -> dict[str, Any]:
    """Return *spec* with what CDI devices add; *nodes* are those of *edits*, completed from the host."""
    hooks: dict[str, tuple[Hook, ...]] = {}
    for one in edits.hooks:
        hook = Hook(path=one.path, args=one.args, env=one.env, timeout_s=one.timeout)
        hooks[one.hook_name] = (*hooks.get(one.hook_name, ()), hook)
    variables = (one.partition("=") for one in edits.env)
    wanted = Adjustment(
        env=tuple((name, value) for name, _, value in variables),
        mounts=tuple(
            Mount(destination=one.destination, source=one.source, kind=one.kind, options=tuple(one.options))
            for one in cdi.extra_mounts(edits)
        ),
        devices=tuple(
            Device(
                path=one.path,
                kind=one.kind,
                major=one.major,
                minor=one.minor,
                file_mode=one.file_mode,
                uid=one.uid,
                gid=one.gid,
                access=one.access,
            )
            for one in nodes
        ),
        hooks=hooks,
    )
    made = adjust(spec, wanted, CDI, Owners(container_id))
    if edits.intel_rdt is not None and "intelRdt" not in made["linux"]:  # what a plugin itself says is nearer
        made["linux"] = {**made["linux"], "intelRdt": edits.intel_rdt}
    made["annotations"] = {**made["annotations"], ANNOTATION: digest_of(cdi.document(edits))}
    if edits.additional_gids:
        user = made["process"]["user"]
        gids = dict.fromkeys((*user.get("additionalGids", ()), *edits.additional_gids))
        made["process"] = {**made["process"], "user": {**user, "additionalGids": list(gids)}}
    return made


def check_known(
    before: Mapping[str, Any], spec: Mapping[str, Any], handler: str, knows: tuple[int, ...], host: HostFacts
) -> None:
    """Check that what plugins made of *before* means something to the OCI runtime, *handler*, and to this host.

    *knows* is the newest version of the OCI runtime specification that the runtime says it knows; () for none.

    Raises:
        InvalidRequest: it means nothing.
        Unsupported: the runtime would leave it out, or the host has no such thing.
    """
    process, rdt = spec["process"], spec["linux"].get("intelRdt", {})
    own, own_rdt = before["process"], before["linux"].get("intelRdt", {})
    _check_priority(process.get("ioPriority"))
    _check_scheduler(process.get("scheduler"))
    if rdt != own_rdt:
        _check_rdt(rdt, host)
    for place, field, since in _SINCE:
        now, then = (process, own) if place == "process" else (rdt, own_rdt)
        if now.get(field) != then.get(field) and field in now and knows < since:
            told = "says nothing of versions" if not knows else f"knows {'.'.join(map(str, knows))}"
            wanted = ".".join(map(str, since))
            raise Unsupported(
                f"plugins set {field}, which an OCI runtime must know version {wanted} of the specification for; "
                f"handler {handler or 'runc'!r} {told}"
            )


def _check_priority(wanted: Mapping[str, Any] | None) -> None:
    if wanted is not None and (wanted["class"] not in IO_CLASSES or not 0 <= wanted["priority"] <= 7):
        raise InvalidRequest(
            f"plugins set I/O priority {wanted['class']} {wanted['priority']}; "
            f"wanted {', '.join(IO_CLASSES)}, and 0 to 7"
        )


def _check_scheduler(wanted: Mapping[str, Any] | None) -> None:
    if wanted is None:
        return
    if wanted["policy"] not in POLICIES:
        raise InvalidRequest(f"plugins set scheduler {wanted['policy']!r}; wanted one of {', '.join(POLICIES)}")
    for flag in wanted.get("flags", ()):
        if flag not in SCHEDULER_FLAGS:
            raise InvalidRequest(f"plugins set scheduler flag {flag!r}; wanted some of {', '.join(SCHEDULER_FLAGS)}")
    if not -20 <= wanted.get("nice", 0) <= 19:
        raise InvalidRequest(f"plugins set nice value {wanted['nice']}; wanted -20 to 19")


def _check_rdt(wanted: Mapping[str, Any], host: HostFacts) -> None:
    name, schemata = wanted.get("closID", ""), wanted.get("schemata", ())
    if len(name.encode()) > NAME_BYTES_MAX or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidRequest(f"RDT class {name[:100]!r}: wanted the name of a directory")
    if len(schemata) > _SCHEMATA_MAX or any(len(one) > _SCHEMA_CHARS_MAX or "\n" in one for one in schemata):
        raise InvalidRequest(f"RDT schemata: wanted at most {_SCHEMATA_MAX} lines of {_SCHEMA_CHARS_MAX} characters")
    if wanted and not host.resctrl_mounted:
        raise Unsupported(f"RDT class {name!r} is asked for, but /sys/fs/resctrl is not mounted on this host")
