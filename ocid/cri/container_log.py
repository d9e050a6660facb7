"""CRI ReopenContainerLog: the kubelet has renamed the log and wants a new one."""

from __future__ import annotations

from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container import NoteLogReopened
from ocid.errors import WrongState
from ocid.events.envelope import Context


async def reopen_container_log(
    facade: Facade, request: pb.ReopenContainerLogRequest, context: Context
) -> pb.ReopenContainerLogResponse:
    """Return when the monitor writes to the new file.

    Raises:
        NotFound: there is no such container.
        WrongState: it does not run; no file is made then.
    """
    state = container_row(facade, request.container_id).state
    assert state.declared is not None, "only declared containers have rows"
    if not state.running:
        raise WrongState("container", state.declared.container_id, wants="running", is_now=state.phase)
    await facade.core.host.runtime.reopen_log(facade.core.container_effects.order(state.declared))
    actor = facade.core.containers.get(state.declared.container_id)
    await actor.ask(NoteLogReopened(), context)
    return pb.ReopenContainerLogResponse()
