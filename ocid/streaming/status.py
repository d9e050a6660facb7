"""How an exec or attach ended, as the error channel tells it: a Kubernetes Status in JSON, or plain words.

Source: Kubernetes apimachinery, meta/v1 Status; client-go tools/remotecommand, which reads it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ocid.ports.sessions import Outcome

MESSAGE_CHARACTERS_MAX: Final = 4096


def status_json(outcome: Outcome) -> bytes:
    """Write the Status of version 4 and later."""
    status: dict[str, object] = {"metadata": {}, "status": "Failure"}
    if outcome.error:
        error = outcome.error[:MESSAGE_CHARACTERS_MAX]
        status |= {
            "message": f"Internal error occurred: {error}",
            "reason": "InternalError",
            "details": {"causes": [{"message": error}]},
            "code": 500,
        }
    elif outcome.exit_code:
        status |= {
            "message": f"command terminated with non-zero exit code: {_code(outcome.exit_code)}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(_code(outcome.exit_code))}]},
        }
    else:
        status = {"metadata": {}, "status": "Success"}
    return msgspec.json.encode(status)


def status_text(outcome: Outcome) -> bytes:
    """Write what versions before 4 say: nothing after success."""
    if outcome.error:
        return outcome.error[:MESSAGE_CHARACTERS_MAX].encode()
    if outcome.exit_code:
        return f"command terminated with exit code {_code(outcome.exit_code)}".encode()
    return b""


def _code(exit_code: int) -> int:
    """Clients read eight bits."""
    return exit_code if 0 <= exit_code <= 255 else 255
