"""The part of the configuration that says what counts as a secret; see ``ocid.config``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from ocid.classes import Public

PATTERNS_MAX: Final = 64  # of each kind; every text that is written down is searched for each
PATTERN_CHARS_MAX: Final = 512


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """[redaction] What never reaches the log: each secret is replaced by a salted commitment."""

    defaults: bool = True  # the built-in patterns count, too; false leaves only those below
    names: tuple[Public, ...] = ()  # regular expressions for names of variables and flags, searched in upper case
    values: tuple[Public, ...] = ()  # regular expressions for values, whatever they are called


def problems(redaction: Redaction) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the patterns, the key first."""
    for key in ("names", "values"):
        patterns: tuple[str, ...] = getattr(redaction, key)
        if len(patterns) > PATTERNS_MAX:
            yield key, f"wanted at most {PATTERNS_MAX} patterns, has {len(patterns)}"
        for number, pattern in enumerate(patterns, start=1):
            if len(pattern) > PATTERN_CHARS_MAX:
                yield key, f"pattern {number} has {len(pattern)} characters; the limit is {PATTERN_CHARS_MAX}"
                continue
            try:
                empty = re.compile(pattern).search("") is not None
            except (re.error, RecursionError, OverflowError, Warning) as error:
                said = "".join(char if char.isprintable() else "?" for char in str(error)[:80])
                yield key, f"wanted Python regular expressions, pattern {number}: {said}"
                continue
            if empty:
                yield key, f"pattern {number} fits what is empty, and so would hide everything"
