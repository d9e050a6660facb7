"""CRI StartContainer."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container import Container, Start
from ocid.errors import WrongState, revive
from ocid.events.envelope import Context


async def start_container(
    facade: Facade, request: pb.StartContainerRequest, context: Context
) -> pb.StartContainerResponse:
    """Return when the container's program runs, or ran.

    Raises:
        NotFound: there is no such container.
        WrongState: it was started before, or ended.
        EffectFailed: the OCI runtime could not make or start it; it counts as exited with 128.
    """
    row = container_row(facade, request.container_id)
    assert row.state.declared is not None, "only declared containers have rows"
    actor = facade.core.containers.get(row.state.declared.container_id)
    _raise_failure(actor.state)
    if actor.state.start_wanted:
        container_id = row.state.declared.container_id
        if actor.state.started_at_ns:
            raise WrongState("container", container_id, wants="created", is_now=actor.state.phase)
    else:
        try:
            await actor.ask(Start(), context)
        except WrongState:  # making it may have failed while we asked
            _raise_failure(actor.state)
            raise
    state = await actor.until(lambda one: bool(one.started_at_ns) or one.ended)
    if not state.started_at_ns:
        _raise_failure(state)
        raise WrongState("container", request.container_id, wants="created", is_now=state.phase)
    return pb.StartContainerResponse()


def _raise_failure(state: Container) -> None:
    failed = state.create_failed or state.start_failed
    if failed is not None:
        raise revive(failed.error, failed.message)
