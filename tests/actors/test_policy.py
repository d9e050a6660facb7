"""The redaction policy: what the configuration makes of it, and when the log hears of it."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from ocid.actors import policy
from ocid.actors.recorder import Recorder
from ocid.config import Config, Containers
from ocid.config_redaction import Redaction
from ocid.domain.redaction import DEFAULT_RULES, is_secret, policy_document, redact_argv
from ocid.events.node import NODE, RedactionConfigured
from ocid.journal.memory import Disk, MemoryLog, memory_journal
from ocid.projections.view import View
from tests.actors.test_sealing import TrioClock

SALT = bytes(32)


def test_without_configuration_the_rules_are_the_built_in_ones() -> None:
    rules = policy.configured(Config())
    assert is_secret("DB_PASSWORD", "x", rules)
    assert rules.value_patterns == DEFAULT_RULES.value_patterns


@pytest.mark.parametrize("defaults", [True, False])
def test_patterns_add_to_the_built_in_ones_or_stand_alone(defaults: bool) -> None:
    rules = policy.configured(
        Config(redaction=Redaction(defaults=defaults, names=("^SESAME$", "OPEN"), values=("tok-[0-9]+",)))
    )

    assert is_secret("sesame", "x", rules)
    assert is_secret("DO_OPEN_IT", "x", rules)
    assert is_secret("A", "my tok-12", rules)
    assert is_secret("DB_PASSWORD", "x", rules) is defaults
    assert not is_secret("HOME", "/root", rules)


def test_rules_without_any_pattern_hide_only_what_is_always_hidden() -> None:
    rules = policy.configured(Config(redaction=Redaction(defaults=False)))

    assert redact_argv(("--password=x", "plain"), rules, SALT) == ("--password=x", "plain")
    assert "hunter2" not in redact_argv(("postgres://a:hunter2@db/x",), rules, SALT)[0]


def test_the_document_is_the_same_for_the_same_rules_only() -> None:
    other = policy.configured(Config(redaction=Redaction(values=("x",))))

    assert policy_document(policy.configured(Config())) == policy_document(policy.configured(Config()))
    assert policy_document(policy.configured(Config())) != policy_document(other)
    assert json.loads(policy_document(other))["values"][-1] == "x"


def test_the_log_hears_of_rules_and_salt_when_they_change() -> None:
    disk = Disk()

    async def life(config: Config, salt: bytes) -> None:
        writer = memory_journal(MemoryLog(disk), TrioClock())
        view = View(writer.document)
        for envelope in writer.replay():
            view.apply(envelope)
        writer.subscribe(view.apply)
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            rules = policy.configured(config)
            await policy.record(Recorder(writer, view.node_version), view.node, rules, salt)
            said = view.node.redaction
            assert said is not None
            assert writer.document(said.policy) == policy_document(rules)
            nursery.cancel_scope.cancel()

    other = Config(redaction=Redaction(names=("X",)))
    for config, salt in ((Config(), SALT), (Config(), SALT), (other, SALT), (other, b"1" * 32), (other, b"1" * 32)):
        trio.run(life, config, salt, clock=MockClock(autojump_threshold=0))

    said = [one.event for one in MemoryLog(disk).read_stream(NODE)]
    assert all(isinstance(one, RedactionConfigured) for one in said)
    assert len(said) == 3
    assert not any(SALT.hex()[:16] in repr(one) for one in said)


def test_variables_for_all_containers_are_redacted_in_the_recorded_configuration() -> None:
    config = Config(containers=Containers(env=("DB_PASSWORD=c4nary", "GREETING=hello", "EMPTY_TOKEN=")))

    document = policy.config_document(config, DEFAULT_RULES, SALT)

    assert b"c4nary" not in document
    env = json.loads(document)["containers"]["env"]
    assert env[0].startswith("DB_PASSWORD=«redacted:")
    assert env[1:] == ["GREETING=hello", "EMPTY_TOKEN="]
