"""CRI PullImage: fetch an image, or join the pull of it that is going on."""

from __future__ import annotations

from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain import reference
from ocid.errors import EffectFailed, Unavailable, revive
from ocid.events.envelope import Context
from ocid.ports import Credentials

REGISTRY_UNAVAILABLE = "RegistryUnavailable"  # CRI, errors that the kubelet knows by their first word


async def pull_image(facade: Facade, request: pb.PullImageRequest, context: Context) -> pb.PullImageResponse:
    """Return the image id when every layer is in the store.

    A second pull of the same reference by somebody with the same credentials joins the first. When the caller goes
    away, the pull goes on: its next try finds the work done.

    Raises:
        InvalidRequest: the reference or a credential is malformed.
        NotFound: the registry has no such image.
        EffectFailed: the registry refused, or what it sent is not what it promised, or none answered: the kubelet
            knows that by the first word of a message whose status is UNKNOWN, and by nothing else.
        Unavailable: the daemon was restarted meanwhile.
    """
    validate.pull_image(request)
    name = str(reference.parse(request.image.image))
    credentials = _credentials(request.auth) if request.HasField("auth") else None
    actor = await facade.core.pull_effects.begin(name, credentials, context)
    state = await actor.until(lambda pull: pull.ended)
    if state.failed is not None:
        if state.failed.error == Unavailable.__name__:
            raise EffectFailed(f"{REGISTRY_UNAVAILABLE}: {state.failed.message}")
        raise revive(state.failed.error, state.failed.message)
    if state.completed is None:
        raise revive("Unavailable", f"the pull of {name} was abandoned; try again")
    return pb.PullImageResponse(image_ref=state.completed.image_id)


def _credentials(auth: pb.AuthConfig) -> Credentials | None:
    credentials = Credentials(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )
    return None if credentials == Credentials() else credentials
