"""The daemon's own messages on stderr, and that no secret is in them."""

from __future__ import annotations

import logging
import secrets
import sys
from typing import Final

from ocid.domain.redaction import RedactionRules, redact_text

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Redacting(logging.Formatter):
    """Formats as usual, traceback included, and then takes out what the rules call secret."""

    def __init__(self, rules: RedactionRules) -> None:
        super().__init__(FORMAT)
        self._rules = rules
        self._salt = secrets.token_bytes(32)  # of this life: nothing on stderr is to be compared with anything

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record), self._rules, self._salt)


def write_messages(level: str, rules: RedactionRules) -> None:
    """Have messages of *level* and above written to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacting(rules))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("grpclib").setLevel(logging.WARNING)  # a client that goes away is nothing to report
