"""Facts about streaming sessions: exec, attach and port-forward. Stream ``session/<id>``."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import ContainerId, Digest, PodId, SessionId


class PortUse(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What went through one port of a pod."""

    port: int  # 0: all ports beyond those that are listed
    connections: int
    failed: int  # of these, how many never reached anybody
    bytes_in: int  # towards the pod
    bytes_out: int


class Requested(Event, frozen=True, kw_only=True):
    """Exec, Attach or PortForward was called and will be answered with a URL. Durable before anything runs."""

    TYPE: ClassVar[str] = "session.requested"
    session_id: SessionId
    kind: Public  # "exec", "attach" or "portforward"
    pod_id: PodId
    container_id: ContainerId  # "" for a port-forward
    argv: Digest | None = None  # confidential document: the command after redaction, a JSON list of strings; exec only
    argv_brief: Sensitive = ""  # the same as one line, cut to 200 characters
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    ports: tuple[int, ...] = ()  # () leaves them to the client
    audit_hints: tuple[Sensitive, ...] = ()  # "NAME=value" of the command; a client's claim of its request, no proof


class Opened(Event, frozen=True, kw_only=True):
    """A client came with the session's token. Durable before it is served."""

    TYPE: ClassVar[str] = "session.opened"
    remote: Public  # where it connects from, "127.0.0.1:40312"; "" where that is not known


class Closed(Event, frozen=True, kw_only=True):
    """It was served, and is over."""

    TYPE: ClassVar[str] = "session.closed"
    took_ms: int  # since it was opened
    exit_code: int | None = None  # of an exec; 128 + signal number when killed by a signal
    reason: Sensitive = ""  # why it was cut short; "" when it came to its end
    stdin_bytes: int = 0  # as the container read and wrote them
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    ports: tuple[PortUse, ...] = ()


class Failed(Event, frozen=True, kw_only=True):
    """It could not be served."""

    TYPE: ClassVar[str] = "session.failed"
    error: Public
    message: Sensitive


class Expired(Event, frozen=True, kw_only=True):
    """Nobody came for it in time. Nothing ran."""

    TYPE: ClassVar[str] = "session.expired"
    reason: Sensitive


class Abandoned(Event, frozen=True, kw_only=True):
    """The daemon ended while it was open or waited for its client. Its command was killed if it was still there."""

    TYPE: ClassVar[str] = "session.abandoned"
    reason: Sensitive


SessionEvent = Requested | Opened | Closed | Failed | Expired | Abandoned

enter(Requested, Opened, Closed, Failed, Expired, Abandoned)
