"""Records of the log as events of the Open Cybersecurity Schema Framework. Pure.

The mapping, defined here and nowhere else. Every record becomes one OCSF event, so that a gap in ``metadata.sequence``
is a gap in what was sent, and ``unmapped`` holds the event's own fields whole::

    1007 Process Activity        what runs: containers' programs, commands in containers, pause processes
    6002 Application Lifecycle   pods, containers, images, layers, plugins and the daemon: how they come and go
    6003 API Activity            what was asked for over the socket, and by whom; what was refused
    1008 Event Log Activity      the log itself
    0    Base Event              events of types that this build does not know

``RULES`` says which type of event becomes what. There is no class for the life of a container in OCSF; a container is
an application there, and its program a process. A request counts as accepted, no more: what came of it is a record of
its own. An exit code that nobody knows is left out. ``time`` is when it happened where the event says so, and
``metadata.logged_time`` when it was written; both in milliseconds.

Source: schema.ocsf.io, version 1.7.0, with its profiles host, container, trace and linux/linux_users.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ocid.events.base import Opaque
from ocid.events.envelope import Envelope
from ocid.projections.fields import fields
from ocid.projections.text import exact_time_text
from ocid.projections.words import words

from .naming import Container, Naming, Pod
from .ocsf_rules import (
    API,
    BASE,
    FAILURE,
    LIFECYCLE,
    LOG,
    MEDIUM,
    OPAQUE,
    PROCESS,
    RULES,
    SESSIONS,
    TERMINATE,
    UNKNOWN,
    VERBS,
    Rule,
)

SCHEMA_VERSION: Final = "1.7.0"
PRODUCT: Final = "ocid"

OTHER: Final = 99  # of every enum: its name stands beside it
SERVER, LINUX, REGULAR_FILE, APPLICATION_LOG = 1, 200, 1, 2  # type_id of device, os, file; log_type_id
NO_LOGIN: Final = 4294967295
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_OS: Final = {"name": "Linux", "type_id": LINUX}
_MS: Final = 1_000_000  # nanoseconds


def ocsf(envelope: Envelope, naming: Naming) -> dict[str, Any]:
    """Return *envelope* as an OCSF event in JSON-ready form, any record, of known type or not."""
    data = fields(envelope.event)
    rule = _rule(envelope, naming, data)
    profiles = ["host"]
    made: dict[str, Any] = {
        "class_uid": rule.kind,
        "category_uid": rule.kind // 1000,
        "time": (_number(data, "at_ns") or envelope.wall_ns) // _MS,
        "message": words(envelope.event),
    }
    _say(made, "activity_id", "activity_name", rule.activity)
    made["type_uid"] = rule.kind * 100 + made["activity_id"]
    made["severity_id"] = max(rule.severity, MEDIUM if data.get("oom_killed") is True else 0)
    _outcome(made, rule, data)
    made["metadata"] = _metadata(envelope, naming, profiles)
    made["device"] = {"hostname": naming.log.host, "type_id": SERVER, "os": _OS, "boot_uid": envelope.boot_id}
    made["actor"] = _actor(envelope, naming, profiles)
    _MAKERS[rule.kind](made, envelope, naming, rule, data, profiles)
    context = envelope.context
    made["unmapped"] = {
        "stream": envelope.stream, "stream_version": envelope.version, "type_version": envelope.type_version,
        "epoch": envelope.epoch, "boot_ns": envelope.boot_ns, "who": context.who, "cause": context.cause,
        "command_id": context.command_id, "event": data,
    }  # fmt: skip
    return made


def _rule(envelope: Envelope, naming: Naming, data: dict[str, Any]) -> Rule:
    rule = RULES.get(envelope.type)
    if rule is None or isinstance(envelope.event, Opaque):
        return OPAQUE
    if naming.session in SESSIONS and envelope.type.startswith("session."):
        operation, instead = SESSIONS[naming.session]
        return instead.get(envelope.type) or msgspec.structs.replace(rule, operation=operation)
    if rule.kind == API and not rule.operation:
        rpc = _text(data, "rpc") or "unknown"
        verb = next((number for word, number in VERBS.items() if rpc.startswith(word)), rule.activity)
        return msgspec.structs.replace(rule, activity=verb, operation=rpc)
    return rule


def _metadata(envelope: Envelope, naming: Naming, profiles: list[str]) -> dict[str, Any]:
    made = {
        "version": SCHEMA_VERSION,
        "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": naming.log.version},
        "profiles": profiles,  # whoever uses one enters it
        "uid": f"{naming.log.origin}:{envelope.seq}",
        "original_event_uid": str(envelope.seq),
        "sequence": envelope.seq,
        "event_code": envelope.type,
        "log_name": naming.log.origin,
        "log_provider": PRODUCT,
        "logged_time": envelope.wall_ns // _MS,
        "original_time": exact_time_text(envelope.wall_ns),
    }
    if envelope.context.correlation:
        made["correlation_uid"] = envelope.context.correlation
    return made


def _say(made: dict[str, Any], number: str, name: str, value: int | str) -> None:
    """Enter a value of an enum, or the name of one that is not in it."""
    if isinstance(value, int):
        made[number] = value
    else:
        made[number], made[name] = OTHER, value


def _outcome(made: dict[str, Any], rule: Rule, data: dict[str, Any]) -> None:
    error = _text(data, "error")
    _say(made, "status_id", "status", FAILURE if error else rule.status)
    if error:
        made["status_code"] = error
    if detail := _text(data, "message") or _text(data, "reason"):
        made["status_detail"] = detail


def _actor(envelope: Envelope, naming: Naming, profiles: list[str]) -> dict[str, Any]:
    peer = naming.peer
    if peer is None:
        who = envelope.context.who
        return {"app_name": PRODUCT} if who == 0 else {"app_uid": f"{naming.log.origin}:{who}"}
    user = {"uid": str(peer.uid)}
    process: dict[str, Any] = {"pid": peer.pid, "uid": f"{peer.pid}/{peer.start_ticks}", "user": user}
    name = peer.exe.rpartition("/")[2]
    if peer.comm or name:
        process["name"] = peer.comm or name
    if name:
        process["file"] = {"name": name, "path": peer.exe, "type_id": REGULAR_FILE}
    if peer.login_uid != NO_LOGIN:
        process["auid"] = peer.login_uid
        profiles.append("linux/linux_users")
    return {"process": process, "user": user}


def _container(container: Container, pod: Pod | None, profiles: list[str]) -> dict[str, Any]:
    profiles.append("container")
    made: dict[str, Any] = {
        "uid": container.id,
        "name": container.name,
        "image": {"uid": container.image_id, "name": container.image_ref},
        "orchestrator": "kubernetes",
    }
    if container.handler:
        made["runtime"] = container.handler
    if pod is not None:
        made["labels"] = [f"io.kubernetes.pod.namespace={pod.namespace}", f"io.kubernetes.pod.name={pod.name}"]
        if _UUID.fullmatch(pod.uid):
            made["pod_uuid"] = pod.uid
    return made


def _process(
    made: dict[str, Any], envelope: Envelope, naming: Naming, rule: Rule, data: dict[str, Any], profiles: list[str]
) -> None:
    aggregate, _, name = envelope.stream.partition("/")
    process: dict[str, Any] = {"uid": name}
    pid = _number(data, "pid")
    if aggregate == "pod":
        process["name"] = "pause"
    elif naming.command:
        process["cmd_line"] = naming.command
    elif naming.container is not None:
        process["name"], pid = naming.container.name, naming.container.pid
    if pid > 0:
        process["pid"] = pid
    if naming.container is not None:
        process["container"] = _container(naming.container, naming.pod, profiles)
    made["process"] = process
    for name, given in (("duration", "took_ms"), ("count", "count")):
        if number := _number(data, given):
            made[name] = number
    for name, given in (("start_time", "since_ns"), ("end_time", "until_ns")):
        if number := _number(data, given):
            made[name] = number // _MS
    if rule.activity == TERMINATE and data.get("source") in ("reboot", "unknown"):
        made["status_id"] = UNKNOWN
    elif isinstance(data.get("exit_code"), int):
        made["exit_code"] = data["exit_code"]


def _lifecycle(
    made: dict[str, Any], envelope: Envelope, naming: Naming, _: Rule, data: dict[str, Any], profiles: list[str]
) -> None:
    aggregate, _sep, name = envelope.stream.partition("/")
    app: dict[str, Any] = {"name": aggregate, "uid": name}
    if aggregate == "node":
        app = {"name": _text(data, "plugin") or PRODUCT}
        if _text(data, "ocid_version"):
            app["version"] = data["ocid_version"]
    elif _text(data, "image_id") and aggregate in ("catalog", "pull"):
        app = {"name": _text(data, "name") or naming.reference or data["image_id"], "uid": data["image_id"]}
    elif naming.container is not None:
        app = {"name": naming.container.name, "uid": naming.container.id}
        made["device"]["container"] = _container(naming.container, naming.pod, profiles)
    elif naming.pod is not None:
        app = {"name": f"{naming.pod.namespace}/{naming.pod.name}", "uid": naming.pod.id}
    elif naming.reference:
        app["name"] = naming.reference
    made["app"] = app


def _call(
    made: dict[str, Any], envelope: Envelope, naming: Naming, rule: Rule, data: dict[str, Any], profiles: list[str]
) -> None:
    request = {"uid": envelope.context.correlation or str(envelope.seq)}
    made["api"] = {"operation": rule.operation, "service": {"name": "runtime.v1"}, "version": "v1", "request": request}
    if made["status_id"] == FAILURE:
        response = {"error": _text(data, "error"), "error_message": _text(data, "message") or _text(data, "error")}
        made["api"]["response"] = response
    process = made["actor"].get("process")
    source = PRODUCT if envelope.context.who == 0 else f"peer {envelope.context.who}"
    made["src_endpoint"] = {"name": source if process is None else process.get("name") or f"pid {process['pid']}"}
    resources = []
    if naming.pod is not None:
        pod = naming.pod
        resources.append({"type": "pod", "uid": pod.id, "name": pod.name, "namespace": pod.namespace})
    if naming.container is not None:
        resources.append({"type": "container", "uid": naming.container.id, "name": naming.container.name})
    if naming.reference:
        resources.append({"type": "image", "name": naming.reference})
    kind, _sep, uid = _text(data, "subject").partition("/")
    if uid:
        resources.append({"type": kind, "uid": uid, "name": _text(data, "named") or uid})
    elif _text(data, "named"):
        resources.append({"name": data["named"]})
    if resources:
        made["resources"] = resources
    # The caller's own trace belongs here: profile "trace", made["trace"] = {"uid": its 32 hex digits}.


def _event_log(
    made: dict[str, Any], envelope: Envelope, naming: Naming, _: Rule, data: dict[str, Any], profiles: list[str]
) -> None:
    made |= {"log_name": naming.log.origin, "log_provider": PRODUCT, "log_type_id": APPLICATION_LOG}


def _base(
    made: dict[str, Any], envelope: Envelope, naming: Naming, _: Rule, data: dict[str, Any], profiles: list[str]
) -> None:
    """Nothing more is known of it."""


_MAKERS: Final = {BASE: _base, PROCESS: _process, LIFECYCLE: _lifecycle, API: _call, LOG: _event_log}


def _text(data: dict[str, Any], name: str) -> str:
    """Return a field that is a text, of an event that may be of a type that this build does not know."""
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _number(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
