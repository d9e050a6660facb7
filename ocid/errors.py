"""The errors of ocid, a small tree. The gRPC code of each leaf is chosen in one table, ``ocid.cri.status``.

::

    OcidError
    ├── InvalidRequest   the caller must change the request
    ├── NotFound         the thing named does not exist (the kubelet reads this as "already gone")
    ├── Erased           it existed, and was erased from the log on purpose
    ├── AlreadyExists    the name is taken by something else
    ├── WrongState       the thing exists, but not in the state that the request needs
    ├── Unavailable      try again later: something outside did not answer in time
    ├── Exhausted        a limit was reached; the message names it
    ├── Unsupported      this build, kernel or host cannot do it
    ├── TimedOut         the caller's own time limit passed
    └── EffectFailed     a tool, the kernel or a registry refused; the message carries its words

Messages are lower case without a full stop, quote the value, and say what was wanted, what is, and what to do.
A bug is an ``AssertionError``, never one of these.
"""

from __future__ import annotations

MESSAGE_BYTES_MAX = 2048  # of a tool's own words; a longer text keeps its end, where tools put the cause


class OcidError(Exception):
    """Base of everything that ocid refuses or fails with on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(OcidError):
    """The request can never succeed as it stands."""


class NotFound(OcidError):
    """The thing named does not exist."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} not found")
        self.kind = kind
        self.name = name


class Erased(OcidError):
    """The document that a record cites was erased, with all others of its pod, by the record *seq*."""

    def __init__(self, digest: str, pod_id: str, seq: int) -> None:
        super().__init__(f"document {digest} was erased with all others of pod {pod_id!r}; record {seq} says why")
        self.pod_id = pod_id
        self.seq = seq


class AlreadyExists(OcidError):
    """The name is taken by something else."""


class WrongState(OcidError):
    """The thing exists, but not in the state that the request needs."""

    def __init__(self, kind: str, name: str, *, wants: str, is_now: str) -> None:
        super().__init__(f"{kind} {name!r} is {is_now}, not {wants}")
        self.kind = kind
        self.name = name
        self.wants = wants
        self.is_now = is_now


class Unavailable(OcidError):
    """Something outside did not answer in time; the same request may succeed later."""


class Exhausted(OcidError):
    """A limit was reached."""


class Unsupported(OcidError):
    """This build, kernel or host cannot do it."""


class TimedOut(OcidError):
    """The caller's own time limit passed."""


class EffectFailed(OcidError):
    """A tool, the kernel or a registry refused to do what was asked of it."""


def revive(name: str, message: str) -> OcidError:
    """Return the error that an event recorded by class name and message, so that a caller who waits gets its code."""
    for kind in OcidError.__subclasses__():
        if kind.__name__ == name:
            error = kind.__new__(kind)
            Exception.__init__(error, message)
            error.message = message
            return error
    return EffectFailed(message)


def first_of(group: BaseExceptionGroup[OcidError]) -> OcidError:
    """Return the first error of a tree of them, such as what kept the daemon from starting."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, OcidError), "except* sorts by type"
    return first


def tail(text: bytes | str, limit: int = MESSAGE_BYTES_MAX) -> str:
    """Return the last *limit* bytes of a tool's output as one trimmed text, undecodable bytes replaced."""
    raw = text.encode() if isinstance(text, str) else text
    return raw[-limit:].decode("utf-8", "replace").strip()
