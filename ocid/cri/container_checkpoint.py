"""CRI CheckpointContainer: write a running container to an archive; it goes on."""

from __future__ import annotations

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.checkpoint import Make
from ocid.errors import Unavailable, WrongState, revive
from ocid.events.checkpoint import Requested
from ocid.events.envelope import Context
from ocid.ids import CheckpointId, ContainerId

TIMEOUT_S_DEFAULT = 120  # where the request has none: as long as a kubelet waits
TIMEOUT_S_MAX = 3600  # the container stands still for all that time


async def checkpoint_container(
    facade: Facade, request: pb.CheckpointContainerRequest, context: Context
) -> pb.CheckpointContainerResponse:
    """Return when the archive is whole at its location. It is made even when the caller goes away.

    Raises:
        InvalidRequest: the request is malformed.
        NotFound: there is no such container.
        WrongState: it does not run.
        Unsupported: its OCI runtime or this host cannot checkpoint; the reason is in the message.
        Unavailable: another checkpoint of it is being made.
        TimedOut: it took longer than the request allows.
    """
    validate.checkpoint_container(request)
    state = container_row(facade, request.container_id).state
    assert state.declared is not None, "only declared containers have rows"
    container_id = state.declared.container_id
    if not state.running:
        raise WrongState("container", container_id, wants="running", is_now=state.phase)
    if _is_busy(facade, container_id):
        raise Unavailable(f"another checkpoint of container {container_id!r} is being made; try again later")
    requested = Requested(
        checkpoint_id=CheckpointId(facade.core.host.new_id(32)),
        container_id=container_id,
        location=request.location,
        timeout_s=min(request.timeout or TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX),
    )
    actor = facade.core.checkpoints.create(requested.checkpoint_id)
    await actor.ask(Make(requested=requested), context)
    end = await actor.until(lambda one: one.ended)
    if end.failed is not None:
        raise revive(end.failed.error, f"checkpoint of container {state.declared.name!r}: {end.failed.message}")
    return pb.CheckpointContainerResponse()


def _is_busy(facade: Facade, container_id: ContainerId) -> bool:
    going_on = (actor.state.requested for actor in facade.core.checkpoints if not actor.state.ended)
    return any(one is not None and one.container_id == container_id for one in going_on)
