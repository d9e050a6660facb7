"""The witnesses that the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ocid.adapters.witness_file import FileWitness
from ocid.adapters.witness_http import HttpWitness, Poster
from ocid.adapters.witness_otlp import OtlpWitness, logs_url
from ocid.adapters.witness_syslog import SyslogWitness
from ocid.config_witness import SYSLOG_DEFAULT, Push, address_of
from ocid.ports import Clock, Witness


def witnesses_of(push: Sequence[Push], clock: Clock) -> list[Witness]:
    """Return one witness for each place. Nothing is opened or read yet."""
    return [_witness(one, clock) for one in push]


def _witness(push: Push, clock: Clock) -> Witness:
    match push.kind:
        case "file":
            return FileWitness(push.title, Path(push.path))
        case "syslog":
            address = address_of(push.address or SYSLOG_DEFAULT)
            assert address is not None, "the configuration was checked"
            return SyslogWitness(push.title, address, clock, ca_file=push.ca_file)
        case "http":
            return HttpWitness(push.title, Poster(push.url, token_file=push.token_file, ca_file=push.ca_file))
        case "otlp":
            poster = Poster(logs_url(push.url), token_file=push.token_file, ca_file=push.ca_file)
            return OtlpWitness(push.title, poster, clock)
