"""No secret is written down, and every secret can be put back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.domain.configs import ContainerConfig, EnvVar
from ocid.domain.redaction import DEFAULT_RULES, RedactionRules, commitment, is_secret, redact, redact_argv, reveal
from ocid.errors import InvalidRequest

SALT = b"0123456789abcdef"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----"
AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
GITHUB = "ghp_" + "a1" * 18


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DB_PASSWORD", "x", True),
        ("PGPASSWORD", "x", True),
        ("MYSQL_PWD", "x", True),
        ("PWD", "/srv", False),
        ("OLDPWD", "/srv", False),
        ("apiKey", "x", True),
        ("api-key", "x", True),
        ("basicAuth", "x", True),
        ("AUTH", "x", True),
        ("AUTHOR", "me", False),
        ("SECRETARY", "me", False),
        ("GITHUB_TOKENS", "x", True),
        ("TOKENIZERS_PARALLELISM", "true", False),
        ("AWS_ACCESS_KEY_ID", "x", True),
        ("TLS_PRIVATE_KEY_FILE", "/etc/tls.key", False),
        ("PASSWORD_FILE", "hunter2", True),
        ("KEYBOARD", "us", False),
        ("X", JWT, True),
        ("X", PEM, True),
        ("X", AWS, True),
        ("X", GITHUB, True),
        ("X", "Bearer abcdef", True),
        ("DATABASE_URL", "postgres://u:p@db/x", True),
        ("PROXY", "http://proxy:3128/", False),
        ("X", "a" * 200_000, True),
    ],
)
def test_what_is_a_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value, DEFAULT_RULES) is secret


@pytest.mark.parametrize(
    "argv",
    [
        ("m", "--password=CANARY"),
        ("m", "--password", "CANARY"),
        ("m", "-password", "CANARY"),
        ("m", "--client-secret", "--token", "CANARY"),
        ("env", "PASSWORD=CANARY", "sh"),
        ("curl", "-H", "Authorization: Bearer CANARY"),
        ("curl", "-H", "authorization: token CANARY"),
        ("curl", "-H", "X-Auth-Token: CANARY"),
        ("curl", "-u", "bob:CANARY"),
        ("curl", "https://bob:CANARY@example.com/x?y"),
        ("curl", f"https://{'example.com/' * 3}?jwt=eyJhbGciOiJI.CANARY.sig"),
        ("sh", "-c", "mysql --password CANARY -e 1"),
        ("sh", "-c", "true && DB_PASSWORD='CANARY two' ./run"),
        ("sh", "-c", "curl -H 'Authorization: Basic CANARY' http://x"),
        ("sh", "-c", f"cat <<E\n{PEM}\nE"),
        ("echo", PEM),
    ],
)
def test_command_lines_lose_their_secrets(argv: tuple[str, ...]) -> None:
    hidden = redact_argv(argv, DEFAULT_RULES, SALT)

    assert "CANARY" not in " ".join(hidden)
    assert "«redacted:hmac-sha256:" in " ".join(hidden)
    assert len(hidden) == len(argv)
    assert hidden[0] == argv[0]


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "-c", "echo hello; ls -la /tmp"),
        ("kube-apiserver", "--tls-private-key-file=/etc/k.key", "--port=6443"),
        ("app", "--author", "me", "--verbose"),
        ("curl", "-u", "bob", "http://proxy:80/a@b"),
        ("", "=", "--", "-"),
    ],
)
def test_harmless_command_lines_stay(argv: tuple[str, ...]) -> None:
    assert redact_argv(argv, DEFAULT_RULES, SALT) == argv


def test_config_is_redacted_and_revealed() -> None:
    config = ContainerConfig(
        envs=(EnvVar(key="A", value=b"1"), EnvVar(key="DB_PASSWORD", value=b"\xffCANARY"), EnvVar(key="TOKEN")),
        command=("app", "--token", "CANARY"),
        args=("--password=CANARY", "CANARY-not"),
    )

    redacted, secrets = redact(config, DEFAULT_RULES, SALT)

    assert redacted.envs[1].value.decode() == commitment(b"\xffCANARY", SALT)
    assert redacted.command[:2] == ("app", "--token")
    assert redacted.args[1] == "CANARY-not"
    assert secrets == {1: b"\xffCANARY", 5: b"CANARY", 6: b"--password=CANARY"}
    assert b"CANARY" not in msgspec.msgpack.encode(redacted).replace(b"CANARY-not", b"")
    assert reveal(redacted, secrets) == config
    with pytest.raises(InvalidRequest, match="slot 8"):
        reveal(redacted, {8: b""})


@given(
    envs=st.lists(st.tuples(st.sampled_from(["A", "TOKEN", "MY_SECRET"]), st.binary(max_size=9)), max_size=4),
    words=st.lists(
        st.sampled_from(["--password", "x", "-u", "a:b", "T0KEN=1", "TOKEN=1", "http://a:b@c", "é", JWT]), max_size=6
    ),
    split=st.integers(0, 6),
)
def test_reveal_undoes_redact(envs: list[tuple[str, bytes]], words: list[str], split: int) -> None:
    config = ContainerConfig(
        envs=tuple(EnvVar(key=key, value=value) for key, value in envs),
        command=tuple(words[:split]),
        args=tuple(words[split:]),
    )
    redacted, secrets = redact(config, DEFAULT_RULES, SALT)

    assert reveal(redacted, secrets) == config


def test_commitments_depend_on_salt_and_secret_only() -> None:
    assert commitment(b"a", SALT) == commitment(b"a", SALT) != commitment(b"b", SALT)
    assert commitment(b"a", SALT) != commitment(b"a", b"x" * 16)
    assert len(commitment(b"a", SALT)) == len("«redacted:hmac-sha256:»") + 16


def test_an_operator_may_write_other_rules() -> None:
    rules = RedactionRules(name_pattern="COLOUR", value_patterns=("blue",))

    assert is_secret("my_colour", "", rules)
    assert is_secret("X", "deep blue", rules)
    assert not is_secret("PASSWORD", "x", rules)


@pytest.mark.parametrize("unit", ["eyJaaaaaa-", "a.a", "a://", "Bearer ", "--a ", "-", "'", '="', "a=", "A-", 'a="'])
def test_hostile_arguments_cost_linear_time(unit: str) -> None:
    """Under the suite's time limit: each of these made some earlier pattern quadratic."""
    redact_argv((unit * (120_000 // len(unit)),), DEFAULT_RULES, SALT)
