"""Which type of event becomes which class and activity of OCSF, with which outcome. Pure; see ``ocsf``."""

from __future__ import annotations

from typing import Final

import msgspec

BASE, PROCESS, LOG, LIFECYCLE, API = 0, 1007, 1008, 6002, 6003  # class_uid
LAUNCH, TERMINATE, OPEN = 1, 2, 3  # activity_id of PROCESS
INSTALL, REMOVE, START, STOP, ENABLE, DISABLE, UPDATE = 1, 2, 3, 4, 6, 7, 8  # of LIFECYCLE
CREATE, CHANGE, DELETE = 1, 3, 4  # of API
ERASE, BEGIN = 2, 6  # of LOG
INFORMATIONAL, LOW, MEDIUM, HIGH = 1, 2, 3, 4  # severity_id
UNKNOWN, SUCCESS, FAILURE = 0, 1, 2  # status_id


class Rule(msgspec.Struct, frozen=True):
    """What a type of event becomes."""

    kind: int  # class_uid
    activity: int | str  # activity_id, or the name of one that the class does not have
    operation: str = ""  # of API: the RPC
    severity: int = INFORMATIONAL
    status: int | str = SUCCESS  # status_id, or the name of one; an event with an error is a failure anyway


def _asked(activity: int | str, operation: str) -> Rule:
    return Rule(API, activity, operation, status="Accepted")


def _step(name: str, severity: int = INFORMATIONAL) -> Rule:
    return Rule(LIFECYCLE, name, severity=severity)


RULES: Final[dict[str, Rule]] = {
    "checkpoint.requested": _asked(CREATE, "CheckpointContainer"),
    "checkpoint.made": _step("Checkpoint"),
    "checkpoint.failed": _step("Checkpoint", LOW),
    "container.declared": _asked(CREATE, "CreateContainer"),
    "container.adjusted": _step("Adjust"),
    "container.prepared": _step("Prepare"),
    "container.prepare_failed": _step("Prepare", LOW),
    "container.created": Rule(LIFECYCLE, INSTALL),
    "container.create_failed": Rule(LIFECYCLE, INSTALL, severity=LOW),
    "container.start_requested": _asked("Start", "StartContainer"),
    "container.started": Rule(PROCESS, LAUNCH),
    "container.start_failed": Rule(PROCESS, LAUNCH, severity=LOW),
    "container.stop_requested": _asked("Stop", "StopContainer"),
    "container.exited": Rule(PROCESS, TERMINATE),
    "container.released": _step("Release"),
    "container.remove_requested": _asked(DELETE, "RemoveContainer"),
    "container.removed": Rule(LIFECYCLE, REMOVE),
    "container.effect_failed": _step("Retry", LOW),
    "container.log_reopened": _asked("Reopen log", "ReopenContainerLog"),
    "container.gave_up": _step("Give up", MEDIUM),
    "container.update_requested": _asked(CHANGE, "UpdateContainerResources"),
    "container.update_adjusted": _step("Adjust"),
    "container.updated": Rule(LIFECYCLE, UPDATE),
    "container.update_refused": Rule(LIFECYCLE, UPDATE, severity=LOW),
    "exec.requested": Rule(PROCESS, LAUNCH, status="Accepted"),
    "exec.finished": Rule(PROCESS, TERMINATE),
    "exec.failed": Rule(PROCESS, LAUNCH, severity=LOW),
    "exec.abandoned": Rule(PROCESS, TERMINATE, severity=LOW, status=UNKNOWN),
    "exec.repeated": Rule(PROCESS, "Repeat"),
    "exec.changed": Rule(PROCESS, TERMINATE),
    "exec.ended": Rule(PROCESS, "End of repeats"),
    "image.added": Rule(LIFECYCLE, INSTALL),
    "image.named": Rule(LIFECYCLE, UPDATE),
    "image.removed": Rule(LIFECYCLE, REMOVE),
    "image.released": _step("Release"),
    "image.layers_left": _step("Find leftovers"),
    "image.layers_collected": _step("Collect layers"),
    "layer.wanted": _step("Fetch"),
    "layer.ready": Rule(LIFECYCLE, INSTALL),
    "layer.failed": Rule(LIFECYCLE, INSTALL, severity=LOW),
    "layer.remove_requested": _step("Removal due"),
    "layer.removed": Rule(LIFECYCLE, REMOVE),
    "layer.lost": _step("Lose", MEDIUM),
    "log.founded": Rule(LOG, BEGIN),
    "log.key_rotated": Rule(LOG, "Rotate key"),
    "log.key_replaced": Rule(LOG, "Replace key", severity=HIGH),
    "log.sealed": Rule(LOG, "Seal"),
    "log.archived": Rule(LOG, "Archive"),
    "log.trimmed": Rule(LOG, ERASE),
    "log.archive_removed": Rule(LOG, ERASE, severity=MEDIUM),
    "log.erased": Rule(LOG, ERASE, severity=MEDIUM),
    "log.witness_failing": Rule(LOG, "Witness failing", severity=MEDIUM),
    "log.witness_recovered": Rule(LOG, "Witness recovered"),
    "node.started": Rule(LIFECYCLE, START),
    "node.recovered": _step("Recover"),
    "node.stopped": Rule(LIFECYCLE, STOP),
    "node.peer_seen": Rule(API, "Connect", "connect"),
    "node.peer_measured": Rule(API, "Measure", "connect"),
    "node.usual_peer_set": Rule(LIFECYCLE, UPDATE, severity=LOW),
    "node.unusual_call": Rule(API, "Unusual call", severity=MEDIUM, status="Accepted"),
    "node.request_refused": Rule(API, "Refuse", severity=LOW),
    "node.actor_crashed": _step("Crash", LOW),
    "node.actor_gave_up": _step("Give up", MEDIUM),
    "node.plugin_joined": Rule(LIFECYCLE, ENABLE),
    "node.plugin_left": Rule(LIFECYCLE, DISABLE),
    "node.orphan_found": _step("Find orphan", MEDIUM),
    "node.network_faulty": _step("Find fault", LOW),
    "node.log_quarantined": Rule(LOG, "Quarantine", severity=HIGH),
    "node.runtime_configured": _asked(CHANGE, "UpdateRuntimeConfig"),
    "node.redaction_configured": Rule(LIFECYCLE, UPDATE),
    "pod.declared": _asked(CREATE, "RunPodSandbox"),
    "pod.prepared": _step("Prepare"),
    "pod.network_attached": _step("Attach network"),
    "pod.further_network_attached": _step("Attach network"),
    "pod.pause_started": Rule(PROCESS, LAUNCH),
    "pod.announced": _step("Announce"),
    "pod.ready": Rule(LIFECYCLE, START),
    "pod.failed": Rule(LIFECYCLE, START, severity=LOW),
    "pod.lost": _step("Lose", MEDIUM),
    "pod.stop_requested": _asked("Stop", "StopPodSandbox"),
    "pod.containers_stopped": _step("Stop containers"),
    "pod.network_detached": _step("Detach network"),
    "pod.stopped": Rule(LIFECYCLE, STOP),
    "pod.remove_requested": _asked(DELETE, "RemovePodSandbox"),
    "pod.removed": Rule(LIFECYCLE, REMOVE),
    "pod.effect_failed": _step("Retry", LOW),
    "pod.resources_updated": _asked(CHANGE, "UpdatePodSandboxResources"),
    "pod.gave_up": _step("Give up", MEDIUM),
    "pull.requested": _asked(CREATE, "PullImage"),
    "pull.resolved": _step("Resolve"),
    "pull.layers_ready": _step("Fetch layers"),
    "pull.completed": _step("Pull"),
    "pull.failed": _step("Pull", LOW),
    "pull.abandoned": Rule(LIFECYCLE, "Pull", severity=LOW, status=UNKNOWN),
    "session.requested": _asked("Open session", "Exec"),
    "session.opened": Rule(PROCESS, LAUNCH, status="Accepted"),
    "session.closed": Rule(PROCESS, TERMINATE),
    "session.failed": Rule(PROCESS, LAUNCH, severity=LOW),
    "session.expired": Rule(API, "Expire", "Exec"),
    "session.abandoned": Rule(PROCESS, TERMINATE, severity=LOW, status=UNKNOWN),
}
OPAQUE: Final = Rule(BASE, "Unknown to this build", status=UNKNOWN)
_ATTACH: Final = {  # a session that gets hold of what runs already
    "session.opened": Rule(PROCESS, OPEN, status="Accepted"),
    "session.closed": Rule(PROCESS, "Detach"),
    "session.failed": Rule(PROCESS, OPEN, severity=LOW),
    "session.abandoned": Rule(PROCESS, "Detach", severity=LOW, status=UNKNOWN),
}
_FORWARD: Final = {  # a session that runs nothing
    "session.opened": Rule(API, "Open", "PortForward"),
    "session.closed": Rule(API, "Close", "PortForward"),
    "session.failed": Rule(API, "Open", "PortForward", severity=LOW),
    "session.abandoned": Rule(API, "Close", "PortForward", severity=LOW, status=UNKNOWN),
}
SESSIONS: Final = {"attach": ("Attach", _ATTACH), "portforward": ("PortForward", _FORWARD)}
VERBS: Final = {  # with which the names of RPCs begin
    "Create": CREATE, "Run": CREATE, "Pull": CREATE, "Checkpoint": CREATE, "Update": CHANGE, "Remove": DELETE,
}  # fmt: skip
