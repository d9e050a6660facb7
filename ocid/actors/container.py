"""Container actors: what the effects of ``ocid.domain.container`` do to the host."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import assert_never

import msgspec
import trio

from ocid.actors import restoring
from ocid.actors.actor import Note
from ocid.actors.devices import block_io_of, cdi_edits, cdi_nodes
from ocid.actors.host import Host, back_off
from ocid.actors.image import Images
from ocid.actors.limits import apply_update
from ocid.actors.plugins import Hooks
from ocid.actors.pod import decode_pod_config
from ocid.actors.volumes import mount_images
from ocid.domain import cdi, container as domain, selinux
from ocid.domain.configs import ContainerConfig, NamespaceMode
from ocid.domain.container import Container
from ocid.domain.container_restore import Forgo, RestoreEffect
from ocid.domain.container_update import ApplyUpdate
from ocid.domain.nri import Event
from ocid.domain.pod import Pod
from ocid.domain.redaction import reveal
from ocid.domain.selinux import Labels
from ocid.domain.spec import users
from ocid.domain.spec.build import build_container_spec
from ocid.domain.spec.inputs import DeviceNode, NamespacePaths, PodPaths, ResolvedMount, SpecInputs
from ocid.domain.spec.namespaces import effective_options
from ocid.domain.spec.recorded import process_user, recorded_spec
from ocid.domain.spec.security import needs_default_apparmor, seccomp_localhost_path
from ocid.domain.spec.signals import signal_number
from ocid.errors import EffectFailed, OcidError, Unavailable
from ocid.events.container import Declared
from ocid.events.pod import Declared as PodDeclared
from ocid.ids import ContainerId, PodId, digest_of
from ocid.ports import ContainerOrder, Exit, ImageFacts, ImageView, Process, Signalled

KILL_WAIT_S = 10.0  # for a killed process to be gone; one in uninterruptible sleep is killed again later
PROFILE_BYTES_MAX = 1 << 20  # of a localhost seccomp profile

PodOf = Callable[[PodId], Pod]
ContainerOf = Callable[[ContainerId], Container]


class ContainerEffects:
    """Runs the effects of every container."""

    def __init__(self, host: Host, pod_of: PodOf, container_of: ContainerOf, images: Images) -> None:
        self._host = host
        self._pod_of = pod_of
        self._container_of = container_of
        self._images = images
        self.hooks = Hooks(host, pod_of)

    async def perform(self, effect: domain.Effect, state: Container) -> Note:
        """Run one effect and say what came of it. Foreseen failures are notes, too."""
        assert state.declared is not None, "an undeclared container owes nothing"
        try:
            return await self._perform(effect, state.declared, state)
        except OcidError as error:
            step = type(effect).__name__.removesuffix("Effect")
            now_ns = self._host.clock.wall_ns()
            return Note(domain.NoteFailed(step=step, error=type(error).__name__, message=error.message, at_ns=now_ns))

    async def _perform(self, effect: domain.Effect, declared: Declared, state: Container) -> Note:
        host, hooks, started_at_ns = self._host, self.hooks, state.started_at_ns
        match effect:
            case domain.PrepareEffect():
                return await self._prepare(declared, state)
            case domain.CreateEffect():
                host.secrets.drop(declared.container_id)  # the bundle has them now
                host.plugins.settled(declared.container_id)
                process = await host.runtime.create(self.order(declared))
                await hooks.mention(Event.POST_CREATE_CONTAINER, state, pid=process.pid)
                return Note(domain.NoteCreated(pid=process.pid, start_ticks=process.start_ticks))
            case ApplyUpdate():
                return await apply_update(host, hooks, self.order(declared), state, effect)
            case domain.StartEffect():
                await hooks.tell(Event.START_CONTAINER, state)
                at_ns = host.clock.wall_ns()  # before: a short program has ended when start returns
                await host.runtime.start(self.order(declared))
                await hooks.mention(Event.POST_START_CONTAINER, state, started_at_ns=at_ns)
                return Note(domain.NoteStarted(at_ns=at_ns))
            case RestoreEffect() | Forgo():
                pod = self._pod_of(declared.pod_id)
                return await restoring.perform(host, hooks, effect, self.order(declared), state, pod)
            case domain.Watch(pid=pid, start_ticks=ticks, failures=failures):
                await back_off(failures)
                ended = await host.runtime.wait(self.order(declared), Process(pid=pid, start_ticks=ticks))
                return _exited(ended, started_at_ns)
            case domain.Terminate():
                return _exited(await self._terminate(effect, declared), started_at_ns)
            case domain.Release(failures=failures):
                await back_off(failures)
                order = self.order(declared)
                if not failures and state.created is not None:
                    await hooks.mention(Event.STOP_CONTAINER, state)
                await host.runtime.delete(order)
                await host.layers.unmount(order)
                host.secrets.drop(declared.container_id)
                return Note(domain.NoteReleased())
            case domain.Erase(failures=failures):
                await back_off(failures)
                await host.layers.remove_writable(self.order(declared))
                if host.plugins.settled(declared.container_id) or state.prepared is not None:
                    await hooks.mention(Event.REMOVE_CONTAINER, state)
                return Note(domain.NoteErased())
            case _:
                assert_never(effect)

    # --- making ------------------------------------------------------------------------------------------------------

    async def _prepare(self, declared: Declared, state: Container) -> Note:
        host = self._host
        container = self._revealed(declared)
        pod = self._pod_of(declared.pod_id)
        assert pod.declared is not None, "a container's pod is declared before it"
        if not pod.is_ready:
            raise Unavailable(f"pod {declared.pod_id} is {pod.phase}, not ready")
        facts = self._images.facts(declared.image_manifest)
        order = self.order(declared)
        labels = self._labels(pod.declared, container)
        view = ImageView(userns=pod.declared.userns, label=labels.files)
        rootfs, checkpoint = await restoring.mount_root(host, self._images, order, declared, view)
        images = await mount_images(host.layers, self._images.layers, container, order, view)
        default = needs_default_apparmor(container.linux.security_context)
        gap = await host.confinement.ensure() if default else None
        inputs = self._inputs(declared, container, pod, facts, str(rootfs), images)
        inputs = msgspec.structs.replace(
            inputs,
            selinux_process_label=labels.process,
            selinux_mount_label=labels.files,
            apparmor_gap=gap,
        )
        creation = await self.hooks.creating(state, pod, build_container_spec(inputs))
        spec = creation.spec
        restoring.compare(checkpoint, spec)
        for one in inputs.mounts:
            if one.mount.selinux_relabel and labels.files and one.mount.image is None:
                await host.files.relabel(one.source, labels.files)
        await host.runtime.write_bundle(order, spec)
        user = process_user(spec)
        salt = host.settings.salt + declared.container_id.encode()
        recorded = msgspec.json.encode(recorded_spec(spec, host.settings.redaction, salt))
        document = host.confide(declared.pod_id, recorded)
        note = domain.NotePrepared(
            spec=document.digest,
            uid=user.uid,
            gid=user.gid,
            groups=user.additional_gids,
            adjusted=creation.adjusted,
        )
        return Note(note, (document, *creation.documents))

    def _revealed(self, declared: Declared) -> ContainerConfig:
        config = decode_container_config(self._host.journal.document(declared.config))
        if not declared.secrets:
            return config
        secrets = self._host.secrets.take(declared.container_id)
        if secrets is None:
            raise Unavailable(
                f"container {declared.container_id} was not prepared before the daemon restarted, and its "
                f"{declared.secrets} secret values are never stored; create it again"
            )
        return reveal(config, secrets)

    def _inputs(
        self,
        declared: Declared,
        container: ContainerConfig,
        pod: Pod,
        facts: ImageFacts,
        rootfs: str,
        images: Mapping[int, str],
    ) -> SpecInputs:
        host, order = self._host, self.order(declared)
        pod_declared = pod.declared
        assert pod_declared is not None, "checked by the caller"
        context = container.linux.security_context
        create = host.settings.create_missing_mounts
        mounts = tuple(
            ResolvedMount(
                mount=mount, source=images.get(number) or host.files.resolve_mount(mount.host_path, create=create)
            )
            for number, mount in enumerate(container.mounts)
        )
        devices: list[DeviceNode] = []
        for device in container.devices:
            devices.extend(host.files.devices(device.host_path, device.container_path, device.permissions))
        added = cdi_edits(host.files, container)
        devices.extend(cdi_nodes(host.files, added))
        pod_config = decode_pod_config(host.journal.document(pod_declared.config))
        return SpecInputs(
            pod=pod_config,
            container=container,
            image=facts.config,
            pod_id=declared.pod_id,
            container_id=declared.container_id,
            rootfs=rootfs,
            passwd=host.layers.read_in_root(order, "etc/passwd", users.FILE_BYTES_MAX),
            group=host.layers.read_in_root(order, "etc/group", users.FILE_BYTES_MAX),
            mounts=mounts,
            devices=tuple(devices),
            host_devices=tuple(host.files.all_devices()) if context.privileged else (),
            namespaces=self._namespaces(pod_declared, pod, container),
            paths=_pod_paths(pod_declared),
            cgroups_path=declared.cgroup,
            seccomp_localhost=self._seccomp_file(container),
            extra_mounts=cdi.extra_mounts(added),
            extra_env=added.env,
            extra_gids=added.additional_gids,
            hooks=cdi.oci_hooks(added),
            intel_rdt=added.intel_rdt,
            block_io=block_io_of(host.files, host.settings.block_io_file, pod_config, container),
            cdi=digest_of(cdi.document(added)) if added != cdi.Edits() else "",
            apparmor_loaded=host.files.apparmor_profiles() if host.runtime.host_facts().apparmor_enabled else None,
            policy=host.settings.spec_policy,
            host=host.runtime.host_facts(),
        )

    def _namespaces(self, declared: PodDeclared, pod: Pod, container: ContainerConfig) -> NamespacePaths:
        options = container.linux.security_context.namespace_options
        pins = PurePosixPath(declared.run_dir) / "ns"
        pid = ""
        if options.pid is NamespaceMode.TARGET:
            target = self._container_of(ContainerId(options.target_id))
            if target.declared is None or target.declared.pod_id != declared.pod_id or not target.running:
                raise Unavailable(f"target container {options.target_id} does not run in pod {declared.pod_id}")
            assert target.created is not None, "a running container was created"
            pid = f"/proc/{target.created.pid}/ns/pid"
        elif options.pid is NamespaceMode.POD and pod.pause is not None:
            pid = f"/proc/{pod.pause.pid}/ns/pid"
        return NamespacePaths(
            net=declared.netns,
            ipc="" if declared.host_ipc else str(pins / "ipc"),
            uts=str(pins / "uts") if declared.netns else "",
            pid=pid,
            user=declared.userns,
        )

    def _labels(self, declared: PodDeclared, container: ContainerConfig) -> Labels:
        if not self._host.runtime.host_facts().selinux_enabled:
            return Labels()
        pod = decode_pod_config(self._host.journal.document(declared.config)).linux.security_context
        own = container.linux.security_context
        options = effective_options(pod.namespace_options, own.namespace_options)
        return selinux.labels(msgspec.structs.replace(own, namespace_options=options), pod, declared.selinux_level)

    def _seccomp_file(self, container: ContainerConfig) -> bytes:
        path = seccomp_localhost_path(container.linux.security_context, self._host.settings.spec_policy)
        return self._host.files.read(path, PROFILE_BYTES_MAX) if path else b""

    # --- ending ------------------------------------------------------------------------------------------------------

    async def _terminate(self, effect: domain.Terminate, declared: Declared) -> Exit:
        """Ask, wait until the time is up, kill, wait. CRI StopContainer."""
        host, order = self._host, self.order(declared)
        process = Process(pid=effect.pid, start_ticks=effect.start_ticks)
        await back_off(effect.failures)
        grace_s = (effect.kill_at_boot_ns - host.clock.boot_ns()) / 1e9
        if grace_s > 0:
            what = Signalled(signal=signal_number(effect.signal), everyone=False)
            await host.runtime.signal(order, process, what)
            with trio.move_on_after(grace_s):
                return await host.runtime.wait(order, process)
        await host.runtime.signal(order, process, Signalled(signal=signal.SIGKILL, everyone=True))
        with trio.move_on_after(KILL_WAIT_S):
            return await host.runtime.wait(order, process)
        raise EffectFailed(
            f"process {process.pid} of container {declared.container_id} survives SIGKILL for {KILL_WAIT_S:g} s; "
            f"it is in uninterruptible sleep or frozen"
        )

    def order(self, declared: Declared) -> ContainerOrder:
        """Say everything that running and removing the container needs."""
        config = decode_container_config(self._host.journal.document(declared.config))
        return ContainerOrder(
            container_id=declared.container_id,
            pod_id=declared.pod_id,
            handler=declared.handler,
            bundle=declared.bundle,
            writable=declared.writable,
            cgroup=declared.cgroup,
            log_path=declared.log_path,
            stdin=config.stdin,
            stdin_once=config.stdin_once,
            tty=config.tty,
        )


def _exited(ended: Exit, started_at_ns: int) -> Note:
    at_ns = max(ended.at_ns, started_at_ns)  # a file's time is that of the last tick
    return Note(
        domain.NoteExited(at_ns=at_ns, exit_code=ended.exit_code, oom_killed=ended.oom_killed, source=ended.source)
    )


def _pod_paths(declared: PodDeclared) -> PodPaths:
    run = PurePosixPath(declared.run_dir)
    return PodPaths(
        shm="/dev/shm" if declared.host_ipc else str(run / "shm"),
        resolv_conf=str(run / "resolv.conf"),
        hostname=str(run / "hostname") if declared.netns else "",
    )


def decode_container_config(document: bytes) -> ContainerConfig:
    """Decode a container's configuration document."""
    return msgspec.json.decode(document, type=ContainerConfig)
