"""Correlation hints: what a command line says of the API request that it came from. Pure.

CRI has no field for it. What there is: the security profiles operator's webhook puts ``env SPO_EXEC_REQUEST_UID=<uid>``
before a command, and writes the same uid into the API server's audit log; Kubernetes is to call its variable
``KUBERNETES_EXEC_AUDIT_ID``. Both are a client's claim and no proof: whoever can run a command can write them.

Source: security-profiles-operator, internal/pkg/webhooks/execmetadata; Kubernetes KEP-6035.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ocid.domain.redaction import RedactionRules, is_secret

NAMES: Final = ("KUBERNETES_EXEC_AUDIT_ID", "SPO_EXEC_REQUEST_UID")  # in the order in which they are told
HINT_BYTES_MAX: Final = 128  # of one value; a UUID has 36
VARIABLES_MAX: Final = 64  # that are looked at before the command

_ENV: Final = re.compile(r"(?:/[^\0]*/)?env")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_HINT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


def audit_hints(argv: Sequence[str], rules: RedactionRules) -> tuple[str, ...]:
    """Return ``NAME=value`` of each hint in a leading ``env NAME=value…``, else ().

    As with env(1), the last one of a name counts. What is too long, has other characters than identifiers have, or has
    the shape of a secret, is no hint: this is written down as it is.
    """
    if not argv or _ENV.fullmatch(argv[0]) is None:
        return ()
    found: dict[str, str] = {}
    for argument in argv[1 : VARIABLES_MAX + 1]:
        variable = _VARIABLE.fullmatch(argument)
        if variable is None:
            break
        if variable[1] in NAMES:
            found[variable[1]] = variable[2]
    return tuple(f"{name}={found[name]}" for name in NAMES if name in found and _is_hint(found[name], rules))


def _is_hint(value: str, rules: RedactionRules) -> bool:
    return _HINT.fullmatch(value) is not None and not is_secret("", value, rules)
