"""The OCI runtime spec as the log keeps it: what is secret in its environment and arguments is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocid.domain.redaction import RedactionRules, commitment, is_secret, redact_argv
from ocid.domain.spec.users import ProcessUser


def recorded_spec(spec: Mapping[str, Any], rules: RedactionRules, salt: bytes) -> dict[str, Any]:
    """Return *spec* with secret values replaced by commitments; everything else is shared with it, not copied."""
    process = dict(spec["process"])
    process["env"] = [_variable(one, rules, salt) for one in process.get("env", ())]
    process["args"] = list(redact_argv(tuple(process.get("args", ())), rules, salt))
    if "hooks" not in spec:
        return {**spec, "process": process}
    hooks = {name: [_hook(one, rules, salt) for one in those] for name, those in spec["hooks"].items()}
    return {**spec, "process": process, "hooks": hooks}


def _hook(hook: Mapping[str, Any], rules: RedactionRules, salt: bytes) -> dict[str, Any]:
    """Return a hook with the secrets in its environment and arguments replaced; plugins add hooks."""
    return {
        **hook,
        "env": [_variable(one, rules, salt) for one in hook.get("env", ())],
        "args": list(redact_argv(tuple(hook.get("args", ())), rules, salt)),
    }


def _variable(assignment: str, rules: RedactionRules, salt: bytes) -> str:
    name, sep, value = assignment.partition("=")
    if sep and value and is_secret(name, value, rules):
        return f"{name}={commitment(value.encode('utf-8', 'surrogatepass'), salt)}"
    return assignment


def process_user(spec: Mapping[str, Any]) -> ProcessUser:
    """Return who the specification's process is. OCI config.md "User"."""
    user = spec["process"]["user"]
    return ProcessUser(uid=user["uid"], gid=user["gid"], additional_gids=tuple(user.get("additionalGids", ())))
