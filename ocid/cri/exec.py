"""CRI Exec: say where a client can run a command in a container with its own streams."""

from __future__ import annotations

import msgspec

from ocid.actors.session import Job
from ocid.cri import sessions, validate
from ocid.cri.exec_sync import BRIEF_CHARS_MAX
from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.hints import audit_hints
from ocid.domain.redaction import redact_argv
from ocid.events.envelope import Context
from ocid.events.session import Requested


async def exec_stream(facade: Facade, request: pb.ExecRequest, context: Context) -> pb.ExecResponse:
    """Return a URL that is good for one client, once, for a minute.

    Raises:
        InvalidRequest: no command, no stream, or a terminal with a stderr of its own.
        NotFound: there is no such container, or it does not run.
        Unavailable: no streaming server runs.
        Exhausted: too many sessions are open.
    """
    validate.exec_stream(request)
    streaming = sessions.streaming_of(facade)
    declared = sessions.running_container(facade, request.container_id)
    settings = facade.core.host.settings
    argv = redact_argv(tuple(request.cmd), settings.redaction, settings.salt + declared.container_id.encode())
    document = facade.core.host.confide(declared.pod_id, msgspec.json.encode(argv))
    requested = Requested(
        session_id=sessions.new_session_id(facade),
        kind="exec",
        pod_id=declared.pod_id,
        container_id=declared.container_id,
        argv=document.digest,
        argv_brief=" ".join(argv)[:BRIEF_CHARS_MAX],
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        tty=request.tty,
        audit_hints=audit_hints(tuple(request.cmd), settings.redaction),
    )
    job = Job(argv=tuple(request.cmd))
    return pb.ExecResponse(url=await sessions.url_of(facade, streaming, requested, context, job, (document,)))
