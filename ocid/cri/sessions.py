"""What Exec, Attach and PortForward share: a session is put into the log, and its URL given out."""

from __future__ import annotations

from collections.abc import Sequence

from ocid.actors.session import Job, grant_of
from ocid.cri.facade import Facade, Streaming
from ocid.cri.find import container_row
from ocid.domain.confidential import Document
from ocid.domain.session import Request
from ocid.errors import Exhausted, NotFound, Unavailable
from ocid.events.container import Declared
from ocid.events.envelope import Context
from ocid.events.session import Requested
from ocid.ids import SessionId


def streaming_of(facade: Facade) -> Streaming:
    """Return how clients reach the streaming server.

    Raises:
        Unavailable: there is none.
        Exhausted: as many sessions as may be are open or waiting.
    """
    if facade.streaming is None:
        raise Unavailable("no streaming server runs: exec, attach and port-forward are switched off")
    if len(facade.core.sessions) >= facade.streaming.sessions_max:
        raise Exhausted(
            f"{facade.streaming.sessions_max} streaming sessions are open or waiting for their clients, "
            "which is the limit (streaming.sessions_max); close one"
        )
    return facade.streaming


def new_session_id(facade: Facade) -> SessionId:
    """Return an id for a session."""
    return SessionId(facade.core.host.new_id(32))


def running_container(facade: Facade, container_id: str) -> Declared:
    """Return a container that runs, as it was declared.

    Raises:
        NotFound: there is no such container, or it does not run.
    """
    state = container_row(facade, container_id).state
    assert state.declared is not None, "only declared containers have rows"
    if not state.running:
        raise NotFound("running container", state.declared.container_id)
    return state.declared


async def url_of(
    facade: Facade,
    streaming: Streaming,
    requested: Requested,
    context: Context,
    job: Job,
    documents: Sequence[Document] = (),
) -> str:
    """Make the request durable, and return the URL that its client must open.

    Nothing runs before a client comes. One that does not come in time makes the session expire.
    """
    core = facade.core
    jobs = core.session_effects.jobs
    jobs[requested.session_id] = job
    actor = core.sessions.create(requested.session_id)
    try:
        await actor.ask(Request(requested=requested), context, documents)
    except BaseException:
        if not actor.version:
            jobs.pop(requested.session_id, None)
        raise
    return f"{streaming.base_url}/{requested.kind}/{streaming.tokens.issue(grant_of(requested))}"
