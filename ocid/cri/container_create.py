"""CRI CreateContainer: declare a container, and wait until it is prepared."""

from __future__ import annotations

import functools
from pathlib import PurePosixPath

import msgspec

from ocid.actors import volumes
from ocid.cri import recordable, translate, validate
from ocid.cri.container_restore import Restore, restore_of
from ocid.cri.facade import Facade
from ocid.cri.find import pod_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import cdi
from ocid.domain.confidential import Confidential
from ocid.domain.configs import ContainerConfig, Mount
from ocid.domain.container import Create
from ocid.domain.pod import Pod
from ocid.domain.redaction import redact
from ocid.domain.spec.cgroups import CgroupDriver, cgroups_path
from ocid.domain.spec.signals import signal_name, stop_signal
from ocid.errors import InvalidRequest, NotFound, WrongState, revive
from ocid.events.container import Declared
from ocid.events.envelope import Context
from ocid.ids import ContainerId, ImageId, stream
from ocid.projections.containers import ContainerKey


async def create_container(
    facade: Facade, request: pb.CreateContainerRequest, context: Context
) -> pb.CreateContainerResponse:
    """Return when root file system and specification are there; the OCI runtime goes on making it meanwhile.

    A retry of the same request joins the container in the making, or gets the finished one.

    Raises:
        InvalidRequest: the request is malformed.
        NotFound: pod or image do not exist.
        WrongState: the pod is not ready.
        EffectFailed: preparing it failed; nothing of it is left.
    """
    validate.create_container(request)
    pod = pod_row(facade, request.pod_sandbox_id).state
    assert pod.declared is not None, "only declared pods have rows"
    if not pod.is_ready:
        raise WrongState("pod", pod.declared.pod_id, wants="ready", is_now=pod.phase)
    config = translate.container_config(request.config)
    cdi.requested(config)
    pod_security = facade.view.pods.config(pod.declared.pod_id).linux.security_context
    if config.linux.security_context.privileged and not pod_security.privileged:
        raise InvalidRequest("config.linux.security_context.privileged is set, but the pod is not privileged")
    key = ContainerKey(pod.declared.pod_id, config.metadata.name, config.metadata.attempt)
    containers = facade.core.containers
    actor = containers.joined(key)
    restore = None if actor is not None else await restore_of(facade, config, pod)
    if restore is not None:  # meanwhile the pod may have gone, or another call have come
        pod, config, actor = pod_row(facade, pod.declared.pod_id).state, restore.config, containers.joined(key)
    if actor is None:
        declared, document, secrets = _declare(facade, config, pod, restore)
        recordable.check(stream("container", declared.container_id), declared, context, document.text)
        facade.core.host.secrets.keep(declared.container_id, secrets)
        actor = containers.create(declared.container_id, key)
        await actor.ask(Create(declared=declared), context, (document,))
    state = await actor.until(lambda one: one.prepared is not None or one.ended)
    if state.prepare_failed is not None:
        containers.release_key(actor)
        failed = state.prepare_failed
        known = failed.message.startswith(volumes.FAILED)  # which the kubelet wants at the beginning
        raise revive(failed.error, failed.message if known else f"container {config.metadata.name}: {failed.message}")
    assert state.declared is not None, "a container that was asked for is declared"
    return pb.CreateContainerResponse(container_id=state.declared.container_id)


def _declare(
    facade: Facade, config: ContainerConfig, pod: Pod, restore: Restore | None
) -> tuple[Declared, Confidential, dict[int, bytes]]:
    """Name everything that the container will have on the host, and take its secrets out."""
    core, settings = facade.core, facade.core.host.settings
    assert pod.declared is not None, "checked by the caller"
    image_id = facade.image_id(config.image.image) if restore is None else restore.image_id
    image = facade.catalog_state().images[image_id]
    facts = core.images.facts(image.manifest)
    container_id = ContainerId(core.host.new_id(64))
    config = config.with_images_found(functools.partial(_image_of, facade))
    redacted, secrets = redact(config, settings.redaction, settings.salt + container_id.encode())
    document = core.host.confide(pod.declared.pod_id, msgspec.json.encode(redacted))
    newest = facade.view.containers.created_after(pod.declared.pod_id)
    pod_config = facade.view.pods.config(pod.declared.pod_id)
    driver = CgroupDriver(settings.cgroup_driver)
    declared = Declared(
        container_id=container_id,
        pod_id=pod.declared.pod_id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        created_at_ns=max(core.host.clock.wall_ns(), newest + 1),
        config=document.digest,
        secrets=len(secrets),
        image_id=image_id,
        image_ref=next((name for name in image.names if "@" in name), image_id),
        image_manifest=image.manifest,
        handler=pod.declared.handler,
        log_path=_log_path(pod_config.log_directory, config.log_path),
        bundle=str(settings.run / "containers" / container_id),
        writable=str(settings.root / "containers" / container_id),
        cgroup=cgroups_path(driver, pod.declared.cgroup_parent, container_id),
        stop_signal=signal_name(stop_signal(config, facts.config)),
        restores=None if restore is None else restore.origin,
    )
    return declared, document, secrets


def _log_path(directory: str, path: str) -> str:
    """Join the pod's directory and the container's relative path; "" when either is missing."""
    return str(PurePosixPath(directory) / path) if directory and path else ""


def _image_of(facade: Facade, mount: Mount) -> ImageId:
    assert mount.image is not None, "chosen by that"
    try:
        return facade.image_id(mount.image.image)
    except NotFound as error:
        raise volumes.failure(mount, error.message) from error
