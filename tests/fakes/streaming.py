"""A kubelet that opens streaming sessions, as the facade and the streaming server do it together."""

from __future__ import annotations

import msgspec

from ocid.actors.core import Core
from ocid.actors.session import Job, SessionService, grant_of
from ocid.domain import session as domain
from ocid.errors import NotFound
from ocid.events import session as events
from ocid.ids import ContainerId, SessionId
from ocid.ports.sessions import Outcome
from tests.fakes.clients import FakeClient
from tests.fakes.kubelet import KUBELET, Kubelet
from tests.fakes.tokens import FakeTokens


async def stream(kubelet: Kubelet, container_id: ContainerId, *argv: str, client: FakeClient) -> Outcome:
    """Run a command with *client*, or attach it where there is no command. Not retried: a session dies with its daemon.

    Raises:
        Unavailable: the daemon died.
    """
    return await kubelet._ask(_stream, container_id, argv, client, retry=False)


async def _stream(core: Core, container_id: ContainerId, argv: tuple[str, ...], client: FakeClient) -> Outcome:
    state = core.container_of(container_id)
    if not state.running or state.declared is None:
        raise NotFound("running container", container_id)
    document = core.host.confide(state.declared.pod_id, msgspec.json.encode(argv))
    requested = events.Requested(
        session_id=SessionId(core.host.new_id(32)),
        kind="exec" if argv else "attach",
        pod_id=state.declared.pod_id,
        container_id=container_id,
        argv=document.digest if argv else None,
        argv_brief=" ".join(argv),
        stdin=True,
        stdout=True,
    )
    core.session_effects.jobs[requested.session_id] = Job(argv=argv)
    actor = core.sessions.create(requested.session_id)
    await actor.ask(domain.Request(requested=requested), KUBELET, (document,) if argv else ())
    tokens = FakeTokens()
    service = SessionService(core.session_effects, core.sessions, tokens)
    grant = service.claim(tokens.issue(grant_of(requested)))
    assert grant is not None, "its token was issued just now"
    return await service.serve(grant, client)
