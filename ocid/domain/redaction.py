"""Secrets out of what is written down: each is replaced by a salted commitment before it can reach the log.

A commitment, ``«redacted:hmac-sha256:<16 hex digits>»``, proves later that a secret found elsewhere is (or is not) the
one that was used, to whoever holds the salt, and tells nobody else anything. Redaction errs on the side of hiding: a
harmless value hidden costs an operator a moment, a secret shown is in every backup of the log.

What is recognised: variables and flags by *name* (``DB_PASSWORD``, ``--api-key``), and values by *shape* (JWT, PEM
private key, AWS and GitHub keys, bearer credentials, URLs with a password), whatever they are called.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ocid.domain.configs import ContainerConfig, EnvVar
from ocid.errors import InvalidRequest

COMMITMENT_HEX: Final = 16  # 64 bits: no accidental equals among all secrets of a cluster
SALT_BYTES_MIN: Final = 16
SCAN_CHARS_MAX: Final = 128 * 1024  # MAX_ARG_STRLEN: Linux passes no longer argument or variable to a program

DEFAULT_NAME_PATTERN: Final = (
    r"PASSWORD|PASSWD|PASSPHRASE|[_.-]PWD$|SECRET(?!AR)|TOKEN(?!I[ZS])|CREDENTIAL"
    r"|API[_.-]?KEY|PRIVATE[_.-]?KEY|ACCESS[_.-]?KEY|(?<![A-Z])AUTH(?![A-Z])|AUTHORIZATION"
)
DEFAULT_VALUE_PATTERNS: Final = (
    r"(?<![\w.-])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*",  # JSON Web Token
    r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS access key id
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    r"(?i:\bBearer\s+[A-Za-z0-9._~+/-]{4,}=*)",
)

ALWAYS: Final = ("url-password", "http-credential-header", "user-flag")  # what is hidden whatever the patterns say

# The user part is bounded and the scheme ungreedy, so that a hostile argument costs linear time.
_URL_PASSWORD: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,32}://[^/\s:@]{0,256}:)([^/\s@]{1,4096})(@)")
_HEADER: Final = re.compile(
    r"(?i)^((?:Proxy-)?Authorization|X-[\w-]{0,64}(?:Token|Key|Auth)|Cookie)(\s*:\s*)(.+)$", re.DOTALL
)
_ASSIGNMENT: Final = re.compile(r"^(-{0,2}[A-Za-z_][\w.-]{0,255})([=:])(.+)$", re.DOTALL)
_FLAG: Final = re.compile(r"^--?[A-Za-z][\w.-]{0,255}$")
_USER_FLAGS: Final = frozenset({"-u", "--user", "--proxy-user"})  # curl's "name:password"
_WORD: Final = r"(\"[^\"]*\"|'[^']*'|[^\s\"';&|]+)"
_WORD_ASSIGNMENT: Final = re.compile(r"(?<![\w.-])(-{0,2}[A-Za-z_][\w.-]{0,255}=)" + _WORD)
_WORD_FLAG: Final = re.compile(r"(?<![\w.-])(--[A-Za-z][\w.-]{0,255}[ \t]+)(?!-)" + _WORD)
_HEADER_IN_TEXT: Final = re.compile(r"(?i)(\b(?:Proxy-)?Authorization:[ \t]*)([^\"'\r\n]+)")
_PATH_NAME: Final = re.compile(r"(?i)[_.-](?:FILE|PATH|DIR)[=: \t]*$")
_PATH: Final = re.compile(r"/[\w./-]*")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class RedactionRules(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as a secret. Patterns are Python regular expressions, written by the node operator."""

    name_pattern: str = DEFAULT_NAME_PATTERN  # searched in upper-cased names, camelCase split by "_"
    value_patterns: tuple[str, ...] = DEFAULT_VALUE_PATTERNS  # searched in values


NO_PATTERN: Final = r"(?!)"  # fits nothing


def rules_of(*, defaults: bool, names: tuple[str, ...], values: tuple[str, ...]) -> RedactionRules:
    """Return the rules of further patterns, with the built-in ones or without."""
    patterns = (*((DEFAULT_NAME_PATTERN,) if defaults else ()), *(f"(?:{one})" for one in names))
    return RedactionRules(
        name_pattern="|".join(patterns) or NO_PATTERN,
        value_patterns=(*(DEFAULT_VALUE_PATTERNS if defaults else ()), *values),
    )


def policy_document(rules: RedactionRules) -> bytes:
    """Write the rules down: the same ones give the same bytes."""
    document = {"names": rules.name_pattern, "values": rules.value_patterns, "always": ALWAYS}
    return msgspec.json.encode(document, order="sorted")


def salt_id(salt: bytes) -> str:
    """Name the salt that commitments were made with, without telling anything of it: 16 hex digits."""
    return hmac.new(salt, b"ocid redaction salt", hashlib.sha256).hexdigest()[:COMMITMENT_HEX]


DEFAULT_RULES: Final = RedactionRules()

Secrets = dict[int, bytes]  # slot → what stood there; see ``redact`` for the numbering


def commitment(secret: bytes, salt: bytes) -> str:
    """The text that stands for *secret*: the same secret and salt give the same text."""
    assert len(salt) >= SALT_BYTES_MIN, f"salt is {len(salt)} bytes, wanted at least {SALT_BYTES_MIN}"
    digest = hmac.new(salt, secret, hashlib.sha256).hexdigest()
    return f"«redacted:hmac-sha256:{digest[:COMMITMENT_HEX]}»"


def redact(config: ContainerConfig, rules: RedactionRules, salt: bytes) -> tuple[ContainerConfig, Secrets]:
    """Take the secrets out of a container config, so that it can be written down.

    The slots are numbered through envs, then command, then args: slot 0 is ``envs[0]``, slot ``len(envs)`` is
    ``command[0]``. A secret variable is replaced as a whole, an argument only where the secret is; what comes back
    for either is what stood in the whole slot.
    """
    secrets: Secrets = {}
    envs = []
    for slot, variable in enumerate(config.envs):
        if variable.value and is_secret(variable.key, variable.value.decode("utf-8", "replace"), rules):
            secrets[slot] = variable.value
            variable = EnvVar(key=variable.key, value=commitment(variable.value, salt).encode())
        envs.append(variable)
    argv = config.command + config.args
    hidden = redact_argv(argv, rules, salt)
    for slot, (before, after) in enumerate(zip(argv, hidden, strict=True), start=len(envs)):
        if before != after:
            secrets[slot] = before.encode("utf-8", "surrogatepass")
    split = len(config.command)
    redacted = msgspec.structs.replace(config, envs=tuple(envs), command=hidden[:split], args=hidden[split:])
    return redacted, secrets


def reveal(config: ContainerConfig, secrets: Mapping[int, bytes]) -> ContainerConfig:
    """Undo ``redact``: the config as the kubelet sent it.

    Raises:
        InvalidRequest: a slot is not there, so the secrets are another config's.
    """
    envs, argv = list(config.envs), list(config.command + config.args)
    for slot, secret in secrets.items():
        if not 0 <= slot < len(envs) + len(argv):
            raise InvalidRequest(f"secret of slot {slot}: the config has only {len(envs) + len(argv)}")
        if slot < len(envs):
            envs[slot] = EnvVar(key=envs[slot].key, value=secret)
        else:
            argv[slot - len(envs)] = secret.decode("utf-8", "surrogatepass")
    split = len(config.command)
    return msgspec.structs.replace(config, envs=tuple(envs), command=tuple(argv[:split]), args=tuple(argv[split:]))


def is_secret(name: str, value: str, rules: RedactionRules) -> bool:
    """Whether a variable is secret, by its name or by the shape of its value."""
    if is_secret_name(name, rules) and not _is_path(name, value):
        return True
    return (
        len(value) > SCAN_CHARS_MAX  # no program could be given it, and it is too long to judge
        or _URL_PASSWORD.search(value) is not None
        or any(shape.search(value) is not None for shape in _shapes(rules.value_patterns))
    )


def is_secret_name(name: str, rules: RedactionRules) -> bool:
    """Whether *name* is one that secrets are kept under."""
    return _name(rules.name_pattern).search(_CAMEL.sub("_", name[:1024]).upper()) is not None


def redact_argv(argv: tuple[str, ...], rules: RedactionRules, salt: bytes) -> tuple[str, ...]:
    """A command line fit to be written down: same length, secrets replaced by commitments.

    ``--password=x``, ``--password x``, ``PASSWORD=x``, ``Authorization: Bearer x``, ``-u name:x``, URLs with a
    password, and every value of a secret shape, also in the middle of a shell script.
    """
    hidden = []
    value_is_secret = names_user = False
    flag = ""
    for argument in argv:
        if value_is_secret and argument and not _is_secret_flag(argument, rules) and not _is_path(flag, argument):
            hidden.append(commitment(argument.encode("utf-8", "surrogatepass"), salt))
        elif names_user and ":" in argument:
            name, _, password = argument.partition(":")
            hidden.append(
                f"{name}:{commitment(password.encode('utf-8', 'surrogatepass'), salt)}" if password else argument
            )
        else:
            hidden.append(_redact_argument(argument, rules, salt))
        flag, value_is_secret, names_user = argument, _is_secret_flag(argument, rules), argument in _USER_FLAGS
    return tuple(hidden)


def redact_text(text: str, rules: RedactionRules, salt: bytes) -> str:
    """Any text with the passwords of URLs and all values of secret shapes replaced, word by word of ``NAME=value``."""
    if len(text) > SCAN_CHARS_MAX:
        return commitment(text.encode("utf-8", "surrogatepass"), salt)  # too long to judge, so hidden whole

    def password(found: re.Match[str]) -> str:
        return f"{found[1]}{_commit(found[2], salt)}{found[3]}"

    text = _URL_PASSWORD.sub(password, text)
    for shape in _shapes(rules.value_patterns):
        text = shape.sub(lambda found: _commit(found[0], salt), text)
    text = _HEADER_IN_TEXT.sub(lambda found: _named(found[1], found[2], True, salt), text)
    for pattern in (_WORD_ASSIGNMENT, _WORD_FLAG):
        text = pattern.sub(
            lambda found: _named(found[1], found[2], is_secret_name(found[1], rules), salt),
            text,
        )
    return text


def _named(name: str, value: str, secret: bool, salt: bytes) -> str:
    """*name* and the commitment of *value*, unless that is no secret, or a commitment already."""
    hide = secret and "«redacted:" not in value and not _is_path(name, value)
    return f"{name}{_commit(value, salt)}" if hide else f"{name}{value}"


def _redact_argument(argument: str, rules: RedactionRules, salt: bytes) -> str:
    header = _HEADER.match(argument)
    if header is not None:
        return f"{header[1]}{header[2]}{_commit(header[3], salt)}"
    assigned = _ASSIGNMENT.match(argument)
    if assigned is not None and is_secret_name(assigned[1], rules) and not _is_path(assigned[1], assigned[3]):
        return f"{assigned[1]}{assigned[2]}{_commit(assigned[3], salt)}"
    if "PRIVATE KEY" in argument and redact_text(argument, rules, salt) != argument:
        return _commit(argument, salt)  # the key's body follows its header line
    return redact_text(argument, rules, salt)


def _is_secret_flag(argument: str, rules: RedactionRules) -> bool:
    """``--password``: a flag without "=" whose value is the next argument."""
    return _FLAG.match(argument) is not None and is_secret_name(argument, rules)


def _is_path(name: str, value: str) -> bool:
    """``--tls-private-key-file=/etc/tls.key`` and its like say where a secret is, and are evidence worth keeping."""
    return _PATH_NAME.search(name) is not None and _PATH.fullmatch(value) is not None


def _commit(secret: str, salt: bytes) -> str:
    return commitment(secret.encode("utf-8", "surrogatepass"), salt)


@functools.lru_cache(maxsize=8)
def _name(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@functools.lru_cache(maxsize=8)
def _shapes(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)
