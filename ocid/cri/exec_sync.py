"""CRI ExecSync: run a command in a container and return what it wrote. Probes come this way."""

from __future__ import annotations

import msgspec
import trio

from ocid.actors.execution import Job
from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.confidential import Confidential
from ocid.domain.exec import Run
from ocid.domain.hints import audit_hints
from ocid.domain.redaction import redact_argv
from ocid.errors import NotFound, TimedOut, revive
from ocid.events.container import Declared
from ocid.events.envelope import Context
from ocid.events.exec import Requested
from ocid.ids import ExecId

BRIEF_CHARS_MAX = 200


async def exec_sync(facade: Facade, request: pb.ExecSyncRequest, context: Context) -> pb.ExecSyncResponse:
    """Return exit code and output; each stream is cut at 16 MiB.

    The request is in the log before anything runs. The command is killed when its time is up, or its caller is gone.

    Raises:
        NotFound: there is no such container, or it does not run.
        TimedOut: the command did not end in time.
    """
    validate.exec_sync(request)
    state = container_row(facade, request.container_id).state
    assert state.declared is not None, "only declared containers have rows"
    if not state.running:
        raise NotFound("running container", state.declared.container_id)
    effects, execs = facade.core.exec_effects, facade.core.execs
    exec_id = ExecId(facade.core.host.new_id(32))
    job = Job(argv=tuple(request.cmd), timeout_s=float(request.timeout) if request.timeout > 0 else None)
    requested, document = _requested(facade, exec_id, state.declared, job, request.timeout)
    effects.jobs[exec_id] = job
    actor = execs.create(exec_id)
    try:
        await actor.ask(Run(requested=requested), context, (document,))
        end = await actor.until(lambda one: one.ended)
    except trio.Cancelled:
        job.unwanted.set()
        raise
    finally:
        if actor.state.ended:
            effects.jobs.pop(exec_id, None)
    if end.failed is not None:
        raise revive(end.failed.error, end.failed.message)
    if end.finished is None or job.result is None:
        raise revive("Unavailable", end.abandoned.reason if end.abandoned is not None else "the command was lost")
    if end.finished.timed_out:
        raise TimedOut(f"command {requested.argv_brief!r} did not end within {request.timeout} s and was killed")
    result = job.result
    return pb.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def _requested(
    facade: Facade, exec_id: ExecId, declared: Declared, job: Job, timeout_s: int
) -> tuple[Requested, Confidential]:
    settings = facade.core.host.settings
    argv = redact_argv(job.argv, settings.redaction, settings.salt + declared.container_id.encode())
    document = facade.core.host.confide(declared.pod_id, msgspec.json.encode(argv))
    requested = Requested(
        exec_id=exec_id,
        container_id=declared.container_id,
        argv=document.digest,
        argv_brief=" ".join(argv)[:BRIEF_CHARS_MAX],
        timeout_s=max(timeout_s, 0),
        audit_hints=audit_hints(job.argv, settings.redaction),
    )
    return requested, document
