"""What a view of the log says of pods, containers and images, as plain rows for tables and programs. Pure."""

from __future__ import annotations

import msgspec

from ocid.domain.catalog import INITIAL, Catalog
from ocid.domain.container import START_ERROR_CODE, Container
from ocid.domain.pod import Pod
from ocid.ids import ImageId
from ocid.projections.view import View


class ContainerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One container."""

    id: str
    name: str
    attempt: int
    pod_id: str
    state: str  # "preparing", "created", "starting", "running", "exited", "removing"
    image: str  # a name where the catalog has one, else repository@digest or the image id
    image_id: str
    created_at_ns: int
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int | None = None  # of one that has ended
    reason: str = ""  # CRI ContainerStatus.reason of one that has ended
    pid: int = 0  # of its init while it may run
    seq: int  # of its last event

    @property
    def is_over(self) -> bool:
        """Whether no process of it can run any more."""
        return self.exit_code is not None


class PodLine(msgspec.Struct, frozen=True, kw_only=True):
    """One pod with its containers, in order of declaration."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    state: str  # "starting", "ready", "stopping", "stopped", "removing", "lost", "given up"
    handler: str
    network: str
    addresses: tuple[str, ...]
    created_at_ns: int
    reason: str = ""  # why it failed or was lost
    seq: int  # of its last event
    containers: tuple[ContainerLine, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether it neither takes containers nor is about to."""
        return self.state not in ("starting", "ready")


class ImageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the catalog."""

    id: str
    names: tuple[str, ...]
    manifest: str
    size_bytes: int


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One address of the built-in network that a pod holds."""

    address: str  # CIDR
    pod_id: str
    pod: str  # namespace/name


def images(view: View) -> list[ImageLine]:
    """Return every image, by name."""
    lines = [
        ImageLine(id=image.image_id, names=tuple(image.names), manifest=image.manifest, size_bytes=image.size_bytes)
        for image in _catalog(view).images.values()
    ]
    return sorted(lines, key=lambda line: (line.names or ("~",), line.id))


def leases(view: View) -> list[Lease]:
    """Return the addresses that pods hold, in order of leasing."""
    held = []
    for address, pod_id in view.pods.leases.items():
        declared = view.pods.rows[pod_id].state.declared
        name = f"{declared.namespace}/{declared.name}" if declared is not None else ""
        held.append(Lease(address=address, pod_id=pod_id, pod=name))
    return held


def pods(view: View) -> list[PodLine]:
    """Return every pod that is not removed, the oldest first, with its containers."""
    lines = [_pod_line(view, name, row.state, row.seq) for name, row in view.pods.rows.items()]
    return sorted((line for line in lines if line is not None), key=lambda line: (line.created_at_ns, line.id))


def strays(view: View) -> list[ContainerLine]:
    """Return containers whose pod is not there any more; there are none on a healthy node."""
    lines = [_container_line(view, name) for name in view.containers.rows]
    return [line for line in lines if line is not None and line.pod_id not in view.pods.rows]


def _pod_line(view: View, name: str, state: Pod, seq: int) -> PodLine | None:
    declared = state.declared
    if declared is None:
        return None
    containers = (_container_line(view, container) for container in view.containers.by_pod.get(declared.pod_id, ()))
    reason = f"{state.failed.step}: {state.failed.message}" if state.failed is not None else ""
    return PodLine(
        id=name,
        name=declared.name,
        namespace=declared.namespace,
        uid=declared.uid,
        attempt=declared.attempt,
        state=state.phase,
        handler=declared.handler,
        network=declared.network,
        addresses=state.attached.addresses if state.attached is not None and not state.detached else (),
        created_at_ns=declared.created_at_ns,
        reason=reason or state.lost or state.gave_up or "",
        seq=seq,
        containers=tuple(line for line in containers if line is not None),
    )


def _container_line(view: View, name: str) -> ContainerLine | None:
    row = view.containers.rows.get(name)
    if row is None or row.state.declared is None:
        return None
    state, declared = row.state, row.state.declared
    finished_at_ns, exit_code, reason = _end(state)
    return ContainerLine(
        id=name,
        name=declared.name,
        attempt=declared.attempt,
        pod_id=declared.pod_id,
        state=state.phase,
        image=_image_name(view, declared.image_id) or declared.image_ref or declared.image_id,
        image_id=declared.image_id,
        created_at_ns=declared.created_at_ns,
        started_at_ns=state.started_at_ns,
        finished_at_ns=finished_at_ns,
        exit_code=exit_code,
        reason=reason,
        pid=state.created.pid if state.created is not None and not state.ended else 0,
        seq=row.seq,
    )


def _catalog(view: View) -> Catalog:
    row = view.catalog.rows.get("images")
    return INITIAL if row is None else row.state


def _image_name(view: View, image_id: str) -> str:
    """Return the image's first name, one with a tag if it has any; "" when it has none or is not there."""
    image = _catalog(view).images.get(ImageId(image_id))
    names = () if image is None else sorted(image.names, key=lambda name: ("@" in name, name))
    return next(iter(names), "")


def _end(state: Container) -> tuple[int, int | None, str]:
    """Return when the container ended, with what code and why; (0, None, "") for one that has not."""
    if state.exited is not None:
        return state.exited.at_ns, state.exited.exit_code, exit_reason(state.exited.exit_code, state.exited.oom_killed)
    for failed in (state.create_failed, state.start_failed):
        if failed is not None:
            return failed.at_ns, START_ERROR_CODE, f"{failed.error}: {failed.message}"
    if state.prepare_failed is not None:
        return 0, START_ERROR_CODE, f"{state.prepare_failed.error}: {state.prepare_failed.message}"
    return 0, None, ""


def exit_reason(exit_code: int, oom_killed: bool) -> str:
    """Return CRI ContainerStatus.reason of an exit."""
    if oom_killed:
        return "OOMKilled"
    return "Error" if exit_code else "Completed"
