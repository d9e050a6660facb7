"""CRI UpdatePodSandboxResources: the kubelet tells what it has made of the pod's cgroup."""

from __future__ import annotations

import msgspec

from ocid.cri import translate, validate
from ocid.cri.facade import Facade
from ocid.cri.find import pod_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.container_update import brief
from ocid.domain.nri import Event, Resources
from ocid.domain.nri_cri import from_cri
from ocid.domain.pod import NoteResources
from ocid.events.envelope import Context
from ocid.ids import Digest, digest_of


async def update_pod_sandbox_resources(
    facade: Facade, request: pb.UpdatePodSandboxResourcesRequest, context: Context
) -> pb.UpdatePodSandboxResourcesResponse:
    """Record overhead and resources; the status shows them where it is verbose, for CRI has no other place.

    The pod's cgroup is the kubelet's, which has changed it already. Plugins are told before, and may refuse, and after.

    Raises:
        InvalidRequest: the request is malformed.
        NotFound: there is no such pod.
        EffectFailed: a plugin refuses.
    """
    validate.update_pod_sandbox_resources(request)
    state, hooks = pod_row(facade, request.pod_sandbox_id).state, facade.core.container_effects.hooks
    assert state.declared is not None, "only declared pods have rows"
    wanted: dict[str, Resources | None] = {"overhead": None, "resources": None}
    told: dict[str, Digest] = {}
    documents, said = [], []
    for field in ("overhead", "resources"):
        if request.HasField(field):
            resources = translate.linux_resources(getattr(request, field))
            wanted[field] = from_cri(resources)
            documents.append(msgspec.json.encode(resources))
            told[field] = digest_of(documents[-1])
            said.append(f"{field} {brief(resources) or 'none'}")
    note = NoteResources(overhead=told.get("overhead"), resources=told.get("resources"), brief="; ".join(said))
    await hooks.updating_pod(state, **wanted)
    after = await facade.core.pods.get(state.declared.pod_id).ask(note, context, documents)
    await hooks.mention_pod(Event.POST_UPDATE_POD_SANDBOX, after)
    return pb.UpdatePodSandboxResourcesResponse()
