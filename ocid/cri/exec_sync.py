"""CRI ExecSync: run a command in a container and return what it wrote. Probes come this way."""

from __future__ import annotations

import functools

import msgspec

from ocid.actors.execution import Job
from ocid.cri import validate
from ocid.cri.facade import Facade
from ocid.cri.find import container_row
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.confidential import Confidential
from ocid.domain.hints import audit_hints
from ocid.domain.redaction import redact_argv
from ocid.errors import NotFound, TimedOut
from ocid.events.container import Declared
from ocid.events.envelope import Context
from ocid.events.exec import Requested
from ocid.ids import ExecId

BRIEF_CHARS_MAX = 200


async def exec_sync(facade: Facade, request: pb.ExecSyncRequest, context: Context) -> pb.ExecSyncResponse:
    """Return exit code and output; each stream is cut at 16 MiB.

    The request is in the log before anything runs, but for what the same client runs again and again, which is counted:
    see ``ocid.actors.probes``. The command is killed when its time is up, or its caller is gone.

    Raises:
        NotFound: there is no such container, or it does not run.
        TimedOut: the command did not end in time.
    """
    validate.exec_sync(request)
    state = container_row(facade, request.container_id).state
    assert state.declared is not None, "only declared containers have rows"
    if not state.running:
        raise NotFound("running container", state.declared.container_id)
    job = Job(argv=tuple(request.cmd), timeout_s=float(request.timeout) if request.timeout > 0 else None)
    describe = functools.partial(_requested, facade, state.declared, job, request.timeout)
    result = await facade.core.exec_effects.probes.run(state.declared.container_id, job, describe, context)
    if result.timed_out:
        brief = _brief(_redacted(facade, state.declared, job))
        raise TimedOut(f"command {brief!r} did not end within {request.timeout} s and was killed")
    return pb.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def _requested(
    facade: Facade, declared: Declared, job: Job, timeout_s: int, exec_id: ExecId, repeats: ExecId
) -> tuple[Requested, Confidential]:
    argv = _redacted(facade, declared, job)
    document = facade.core.host.confide(declared.pod_id, msgspec.json.encode(argv))
    requested = Requested(
        exec_id=exec_id,
        container_id=declared.container_id,
        argv=document.digest,
        argv_brief=_brief(argv),
        timeout_s=max(timeout_s, 0),
        audit_hints=audit_hints(job.argv, facade.core.host.settings.redaction),
        repeats=repeats,
    )
    return requested, document


def _redacted(facade: Facade, declared: Declared, job: Job) -> tuple[str, ...]:
    settings = facade.core.host.settings
    return redact_argv(job.argv, settings.redaction, settings.salt + declared.container_id.encode())


def _brief(argv: tuple[str, ...]) -> str:
    return " ".join(argv)[:BRIEF_CHARS_MAX]
