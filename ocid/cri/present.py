"""Rows of the projections as CRI messages."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ocid.cri import translate
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.configs import ContainerConfig, PodConfig
from ocid.domain.container import START_ERROR_CODE, Container
from ocid.domain.pod import Pod
from ocid.domain.spec.users import ProcessUser
from ocid.projections.view import View

MESSAGE_CHARS_MAX = 4096  # of ContainerStatus.message; the kubelet shows it to users


def pod_state(state: Pod) -> pb.PodSandboxState.ValueType:
    """CRI PodSandboxState."""
    return pb.SANDBOX_READY if state.is_ready else pb.SANDBOX_NOTREADY


def container_state(state: Container) -> pb.ContainerState.ValueType:
    """CRI ContainerState. A container whose actor was given up while it ran is in no known state."""
    if state.ended:
        return pb.CONTAINER_EXITED
    if state.gave_up is not None:
        return pb.CONTAINER_UNKNOWN
    return pb.CONTAINER_RUNNING if state.started_at_ns else pb.CONTAINER_CREATED


def pod_item(state: Pod, config: PodConfig) -> pb.PodSandbox:
    """CRI PodSandbox, one item of ListPodSandbox."""
    assert state.declared is not None, "only declared pods have rows"
    return pb.PodSandbox(
        id=state.declared.pod_id,
        metadata=translate.pod_metadata_to_pb(config.metadata),
        state=pod_state(state),
        created_at=state.declared.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=state.declared.handler,
    )


def pod_status(state: Pod, config: PodConfig) -> pb.PodSandboxStatus:
    """CRI PodSandboxStatus. Addresses are shown as long as the pod has them."""
    assert state.declared is not None, "only declared pods have rows"
    network = pb.PodSandboxNetworkStatus()
    if state.attached is not None and not (state.stop_wanted or state.detached) and state.attached.addresses:
        first, *more = state.attached.addresses
        network = pb.PodSandboxNetworkStatus(ip=first, additional_ips=[pb.PodIP(ip=one) for one in more])
    options = config.linux.security_context.namespace_options
    return pb.PodSandboxStatus(
        id=state.declared.pod_id,
        metadata=translate.pod_metadata_to_pb(config.metadata),
        state=pod_state(state),
        created_at=state.declared.created_at_ns,
        network=network,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=translate.namespace_options_to_pb(options))),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=state.declared.handler,
    )


def container_item(state: Container, config: ContainerConfig) -> pb.Container:
    """CRI Container, one item of ListContainers."""
    assert state.declared is not None, "only declared containers have rows"
    return pb.Container(
        id=state.declared.container_id,
        pod_sandbox_id=state.declared.pod_id,
        metadata=translate.container_metadata_to_pb(config.metadata),
        image=_image(config),
        image_ref=state.declared.image_ref,
        state=container_state(state),
        created_at=state.declared.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
        image_id=state.declared.image_id,
    )


def container_status(state: Container, config: ContainerConfig) -> pb.ContainerStatus:
    """CRI ContainerStatus."""
    declared = state.declared
    assert declared is not None, "only declared containers have rows"
    exit_code, finished_at_ns, reason, message = _ending(state)
    status = pb.ContainerStatus(
        id=declared.container_id,
        metadata=translate.container_metadata_to_pb(config.metadata),
        state=container_state(state),
        created_at=declared.created_at_ns,
        started_at=state.started_at_ns,
        finished_at=finished_at_ns,
        exit_code=exit_code,
        image=_image(config),
        image_ref=declared.image_ref,
        image_id=declared.image_id,
        reason=reason,
        message=message[:MESSAGE_CHARS_MAX],
        labels=config.labels,
        annotations=config.annotations,
        mounts=[translate.mount_to_pb(mount) for mount in config.mounts],
        log_path=declared.log_path,
        stop_signal=translate.signal_to_pb(declared.stop_signal or "SIGTERM"),
    )
    resources = translate.resources_to_pb(config.linux.resources)
    if resources is not None:
        status.resources.CopyFrom(resources)
    if state.prepared is not None:
        made = state.prepared
        user = ProcessUser(uid=made.uid, gid=made.gid, additional_gids=made.groups)
        status.user.CopyFrom(translate.user_to_pb(user))
    return status


def _ending(state: Container) -> tuple[int, int, str, str]:
    """Say exit code, time in ns, reason and message of a container that ended; zeros for one that has not."""
    if state.exited is not None:
        exited = state.exited
        if exited.source == "reboot":
            return exited.exit_code, exited.at_ns, "NodeReboot", "the node was rebooted while the container ran"
        if exited.source == "unknown":
            message = "the container ended, and its exit code was not recorded"
            return exited.exit_code, exited.at_ns, "ExitStatusUnknown", message
        reason = "OOMKilled" if exited.oom_killed else "Completed" if exited.exit_code == 0 else "Error"
        return exited.exit_code, exited.at_ns, reason, ""
    if state.start_failed is not None:
        return START_ERROR_CODE, state.start_failed.at_ns, "StartError", state.start_failed.message
    if state.create_failed is not None:
        return START_ERROR_CODE, state.create_failed.at_ns, "StartError", state.create_failed.message
    if state.gave_up is not None:
        return 0, 0, "Unwatched", state.gave_up
    return 0, 0, "", ""


def _image(config: ContainerConfig) -> pb.ImageSpec:
    """CRI ContainerStatus.image: what the user wrote, where the kubelet passed that on."""
    spec = translate.image_spec_to_pb(config.image)
    if config.image.user_specified_image:
        spec.image = config.image.user_specified_image
    return spec


def container_info(view: View, state: Container, spec: bytes) -> Mapping[str, str]:
    """ContainerStatusResponse.info: what ``crictl inspect`` and others parse, ``.info.pid`` above all."""
    assert state.declared is not None, "only declared containers have rows"
    pid = state.created.pid if state.created is not None and not state.ended else 0
    info = {
        "pid": pid,
        "sandboxID": state.declared.pod_id,
        "runtimeSpec": msgspec.Raw(spec) if spec else None,
        "snapshotKey": state.declared.writable,
        "phase": state.phase,
        "lastSeq": view.containers.rows[state.declared.container_id].seq,
    }
    return {"info": msgspec.json.encode(info).decode()}


def pod_info(view: View, state: Pod, config: PodConfig) -> Mapping[str, str]:
    """PodSandboxStatusResponse.info."""
    assert state.declared is not None, "only declared pods have rows"
    info = {
        "pid": state.pause.pid if state.pause is not None and not state.stop_wanted else 0,
        "phase": state.phase,
        "reason": state.gave_up or state.lost or (state.failed.message if state.failed is not None else ""),
        "netns": state.declared.netns,
        "network": state.attached.via if state.attached is not None else state.declared.network,
        "furtherNetworks": [
            {"network": one.network, "interface": one.interface, "addresses": one.addresses} for one in state.further
        ],
        "runtimeHandler": state.declared.handler,
        "config": config,
        "lastSeq": view.pods.rows[state.declared.pod_id].seq,
    }
    return {"info": msgspec.json.encode(info).decode()}
