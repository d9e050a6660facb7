"""CRI UpdateContainerResources: change the limits of a container that is created or runs."""

from __future__ import annotations

import msgspec

from ocid.cri import translate, validate
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.configs import LinuxResources
from ocid.domain.container import Container
from ocid.domain.container_update import Update, brief, refusal, settled
from ocid.events.envelope import Context
from ocid.ids import digest_of


async def update_container_resources(
    facade: Facade, request: pb.UpdateContainerResourcesRequest, context: Context
) -> pb.UpdateContainerResourcesResponse:
    """Return when the change is in force; what is zero in it stays as it is. Changes are applied one after the other.

    The OCI runtime may still be making the container: the change then follows. What is in force is what plugins, where
    there are any, made of the change.

    Raises:
        InvalidRequest: the request is malformed, or the kernel says that a value cannot be.
        NotFound: there is no such container.
        WrongState: it ended, is being stopped, or uses more memory than the new limit.
        EffectFailed: a plugin, the kernel or the OCI runtime refused. Always, all limits are what they were.
        Unsupported: this host's cgroups have no such limit.
    """
    validate.update_container_resources(request)
    row = container_row(facade, request.container_id)
    assert row.state.declared is not None, "only declared containers have rows"
    container_id, change = row.state.declared.container_id, translate.linux_resources(request.linux)
    document, update_id = msgspec.json.encode(change), facade.core.host.new_id(16)
    actor = facade.core.containers.get(container_id)
    command = Update(update_id=update_id, change=digest_of(document), brief=brief(change))
    if change != LinuxResources():
        await actor.ask(command, context, (document,))
        _raise_refusal(await actor.until(lambda one: _is_settled(one, update_id)), update_id)
    return pb.UpdateContainerResourcesResponse()


def _is_settled(state: Container, update_id: str) -> bool:
    return settled(state.limits, update_id) or state.ended or state.stop is not None


def _raise_refusal(state: Container, update_id: str) -> None:
    assert state.declared is not None, "a container that was asked to change is declared"
    is_now = state.phase if state.ended else "stopping"
    error = refusal(state.limits, update_id, state.declared.name, is_now)
    if error is not None:
        raise error
