"""Finding what a request names: by id, or by the beginning of an id."""

from __future__ import annotations

from ocid.actors.actor import Actor
from ocid.cri.facade import Facade
from ocid.domain.container import Container
from ocid.domain.pod import Pod
from ocid.errors import InvalidRequest, NotFound
from ocid.projections.fold import Row


def pod_row(facade: Facade, pod_id: str) -> Row[Pod]:
    """Return a pod's row.

    Raises:
        InvalidRequest: the id is empty.
        NotFound: there is no such pod, or the id's beginning fits several.
    """
    if not pod_id:
        raise InvalidRequest("pod_sandbox_id is empty: wanted the id of a pod")
    row = facade.view.pods.find(pod_id)
    if row is None:
        raise NotFound("pod", pod_id[:100])
    return row


def container_row(facade: Facade, container_id: str) -> Row[Container]:
    """Return a container's row.

    Raises:
        InvalidRequest: the id is empty.
        NotFound: there is no such container, or the id's beginning fits several.
    """
    if not container_id:
        raise InvalidRequest("container_id is empty: wanted the id of a container")
    row = facade.view.containers.find(container_id)
    if row is None:
        raise NotFound("container", container_id[:100])
    return row


def pod_actor(facade: Facade, pod_id: str) -> Actor[Pod] | None:
    """Return the actor of a pod that is to be taken down, awake; None when the pod is gone.

    Raises:
        InvalidRequest: the id is empty.
    """
    try:
        row = pod_row(facade, pod_id)
        assert row.state.declared is not None, "only declared pods have rows"
        return facade.core.pods.revived(row.state.declared.pod_id)
    except NotFound:
        return None


def container_actor(facade: Facade, container_id: str) -> Actor[Container] | None:
    """Return the actor of a container that is to be taken down, awake; None when the container is gone.

    Raises:
        InvalidRequest: the id is empty.
    """
    try:
        row = container_row(facade, container_id)
        assert row.state.declared is not None, "only declared containers have rows"
        return facade.core.containers.revived(row.state.declared.container_id)
    except NotFound:
        return None
