"""The redaction policy: what the configuration makes of it, and that the log knows which one is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ocid.actors.recorder import Recorder
from ocid.config import Config
from ocid.domain.redaction import RedactionRules, commitment, is_secret, policy_document, redact_text, rules_of, salt_id
from ocid.events.base import Event
from ocid.events.codec import FREE_TEXT
from ocid.events.node import RedactionConfigured
from ocid.ids import digest_of
from ocid.projections.node import Node


def configured(config: Config) -> RedactionRules:
    """Return the rules that *config* asks for."""
    wanted = config.redaction
    return rules_of(defaults=wanted.defaults, names=wanted.names, values=wanted.values)


def scrubber(rules: RedactionRules, salt: bytes) -> Callable[[Event], Event]:
    """Return what takes secrets out of an event's free text: tools, plugins and clients repeat what they were given."""

    def scrub(event: Event) -> Event:
        said = {name: text for name in FREE_TEXT if isinstance(text := getattr(event, name, ""), str) and text}
        fit = {name: redacted for name, text in said.items() if (redacted := redact_text(text, rules, salt)) != text}
        return msgspec.structs.replace(event, **fit) if fit else event

    return scrub


async def record(recorder: Recorder, node: Node, rules: RedactionRules, salt: bytes) -> None:
    """Put rules and salt into the log, unless the log's last ones are the same."""
    document = policy_document(rules)
    event = RedactionConfigured(policy=digest_of(document), salt_id=salt_id(salt))
    if event != node.redaction:
        await recorder.append(event, documents=(document,))


def config_document(config: Config, rules: RedactionRules, salt: bytes) -> bytes:
    """Write the configuration down, without the secrets of the variables that all containers get."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    tree["containers"]["env"] = [_hidden(variable, rules, salt) for variable in config.containers.env]
    return msgspec.json.encode(tree)


def _hidden(variable: str, rules: RedactionRules, salt: bytes) -> str:
    name, _, value = variable.partition("=")
    return f"{name}={commitment(value.encode(), salt)}" if value and is_secret(name, value, rules) else variable
