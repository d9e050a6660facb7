"""CRI RunPodSandbox: declare a pod, and wait until it is ready."""

from __future__ import annotations

import contextlib

import msgspec
import trio

from ocid.cri import recordable, translate, validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import networks, selinux
from ocid.domain.confidential import Confidential
from ocid.domain.configs import NamespaceMode, PodConfig
from ocid.domain.pod import Run
from ocid.domain.spec.cgroups import CgroupDriver, parent_path
from ocid.errors import Unavailable, Unsupported, revive
from ocid.events.envelope import Context
from ocid.events.pod import Declared
from ocid.ids import PodId, stream
from ocid.ports import HandlerFeatures
from ocid.projections.pods import PodKey

UNDO_S = 10.0  # that an error waits for what was made to be gone again


async def run_pod_sandbox(
    facade: Facade, request: pb.RunPodSandboxRequest, context: Context
) -> pb.RunPodSandboxResponse:
    """Return when the pod is ready. A retry of the same request joins the pod in the making, or gets the finished one.

    Raises:
        InvalidRequest: the request is malformed, or names an unknown handler, or a network that it cannot have.
        Unsupported: it asks for a user namespace, which handler or kernel cannot give.
        Exhausted: no address is free.
        EffectFailed: making it failed; nothing of it is left, or it is listed until it can be taken down.
    """
    validate.run_pod_sandbox(request)
    config = translate.pod_config(request.config)
    handler = facade.handler(request.runtime_handler)
    parent_path(CgroupDriver(facade.core.host.settings.cgroup_driver), config.linux.cgroup_parent)
    _check_users(config, handler)
    meta = config.metadata
    key = PodKey(meta.namespace, meta.name, meta.uid, meta.attempt)
    pods = facade.core.pods
    actor = pods.joined(key)
    if actor is None:
        declared, document = _declare(facade, config, request.runtime_handler)
        recordable.check(stream("pod", declared.pod_id), declared, context, document.text)
        actor = pods.create(declared.pod_id, key)
        await actor.ask(Run(declared=declared), context, (document,))
    state = await actor.until(lambda pod: pod.ready or pod.failed is not None or pod.stop_wanted)
    if state.failed is not None:
        pods.release_key(actor)
        with trio.move_on_after(UNDO_S), contextlib.suppress(Unavailable):
            await actor.until(lambda pod: pod.removed or pod.failures > 0)
        failed = state.failed
        raise revive(failed.error, f"pod {meta.namespace}/{meta.name}: {failed.step}: {failed.message}")
    assert state.declared is not None, "a pod that was asked to run is declared"
    return pb.RunPodSandboxResponse(pod_sandbox_id=state.declared.pod_id)


def _declare(facade: Facade, config: PodConfig, handler: str) -> tuple[Declared, Confidential]:
    """Name everything that the pod will have on the host."""
    core, settings = facade.core, facade.core.host.settings
    pod_id = PodId(core.host.new_id(64))
    meta, options = config.metadata, config.linux.security_context.namespace_options
    run_dir = settings.run / "pods" / pod_id
    document = core.host.confide(pod_id, msgspec.json.encode(config))
    network = "host" if config.host_network else core.host.network.kind(handler)
    further = networks.wishes(config.annotations)
    if further:
        core.host.network.admit(handler, network, [wish.network for wish in further])
    addresses = core.leasing.choose(pod_id, core.host.network.subnets()) if network == "bridge" else ()
    newest = facade.view.pods.created_after(meta.namespace, meta.name, meta.uid)
    declared = Declared(
        pod_id=pod_id,
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        attempt=meta.attempt,
        created_at_ns=max(core.host.clock.wall_ns(), newest + 1),
        config=document.digest,
        handler=handler,
        network=network,
        addresses=addresses,
        interface=f"ocid{pod_id[:11]}" if network == "bridge" else "",
        netns="" if network == "host" else str(run_dir / "ns" / "net"),
        run_dir=str(run_dir),
        cgroup_parent=config.linux.cgroup_parent or settings.default_cgroup_parent,
        host_ipc=options.ipc is NamespaceMode.NODE,
        host_pid=options.pid is NamespaceMode.NODE,
        shared_pid=options.pid is NamespaceMode.POD,
        selinux_level=_level(facade, config, pod_id),
        userns="" if options.user_namespace is None else str(run_dir / "ns" / "user"),
        plugins=core.host.plugins.enabled,
        networks=networks.named(further),
    )
    return declared, document


def _level(facade: Facade, config: PodConfig, pod_id: PodId) -> str:
    """Choose the level that keeps the pod apart from others, where the kernel has SELinux."""
    enabled = facade.core.host.runtime.host_facts().selinux_enabled
    if not enabled or not selinux.needs_level(config.linux.security_context):
        return ""
    others = (row.state.declared for row in facade.view.pods.rows.values())
    return selinux.choose_level(pod_id, {other.selinux_level for other in others if other is not None})


def _check_users(config: PodConfig, handler: HandlerFeatures) -> None:
    """A user namespace needs a handler that maps ids, and owns the namespaces that the pod has.

    Raises:
        Unsupported: the message names what is missing.
    """
    options = config.linux.security_context.namespace_options
    if options.user_namespace is None:
        return
    if not handler.user_namespaces:
        raise Unsupported(f"user namespaces: {handler.lacks_for_users or 'the handler has none'}")
    for kind in ("network", "ipc", "pid"):
        if getattr(options, kind) is NamespaceMode.NODE:
            raise Unsupported(f"user namespaces with the host's {kind} namespace: wanted one of the pod's own")
