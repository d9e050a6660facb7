"""CRI Attach: say where a client can join the streams of a container's own program."""

from __future__ import annotations

from ocid.actors.session import Job
from ocid.cri import sessions, validate
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.events.envelope import Context
from ocid.events.session import Requested


async def attach(facade: Facade, request: pb.AttachRequest, context: Context) -> pb.AttachResponse:
    """Return a URL that is good for one client, once, for a minute.

    Raises:
        InvalidRequest: no stream, or a terminal with a stderr of its own.
        NotFound: there is no such container, or it does not run.
        Unavailable: no streaming server runs.
        Exhausted: too many sessions are open.
    """
    validate.attach(request)
    streaming = sessions.streaming_of(facade)
    declared = sessions.running_container(facade, request.container_id)
    requested = Requested(
        session_id=sessions.new_session_id(facade),
        kind="attach",
        pod_id=declared.pod_id,
        container_id=declared.container_id,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        tty=request.tty,
    )
    return pb.AttachResponse(url=await sessions.url_of(facade, streaming, requested, context, Job()))
