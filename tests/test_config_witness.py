"""[[checkpoints.push]]: what is read, what is refused, and that no secret gets into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocid.cli.config import value_text
from ocid.config import load
from ocid.config_witness import Address, Push, address_of
from tests.test_config import file as file, refused


def push(*places: str) -> str:
    return "\n".join(f"[[checkpoints.push]]\n{place}" for place in places)


def test_places_in_their_order(file: Path) -> None:
    file.write_text(push("kind='file'\npath='/mnt/w'", "kind='otlp'\nname='far'\nurl='https://h:4318/base'"))
    loaded = load(file)
    first, second = loaded.config.checkpoints.push
    assert first == Push(kind="file", path="/mnt/w")
    assert second == Push(kind="otlp", name="far", url="https://h:4318/base")
    assert (first.title, second.title) == ("file", "far")
    ((value, source),) = [(value, source) for key, value, source in loaded.values() if key == "checkpoints.push"]
    assert source == str(file)
    assert '"path":"/mnt/w"' in value_text(value)


def test_a_drop_in_replaces_the_list_as_a_whole(file: Path) -> None:
    file.write_text(push("kind='file'\npath='/a'", "kind='syslog'"))
    drop_in = file.with_name("ocid.toml.d") / "1.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(push("kind='file'\npath='/b'"))
    assert load(file).config.checkpoints.push == (Push(kind="file", path="/b"),)


REFUSED = [
    ("checkpoints = 1", "checkpoints: wanted a table, is 1"),
    ("[checkpoints]\npush = 1", "checkpoints.push: wanted a list of tables, is 1"),
    ("[checkpoints]\npush = {}", "checkpoints.push: wanted a list of tables, is a table"),
    ("[checkpoints]\npush = [1]", "checkpoints.push.1: wanted a table, is 1"),
    (push(""), 'checkpoints.push.1.kind: not set: wanted "file" or "http" or "otlp" or "syslog"'),
    (push("kind='carrier pigeon'"), "checkpoints.push.1.kind: wanted \"file\" or"),
    (push("kind='file'\npath='/a'", "kind='file'\npaht='/b'"), "checkpoints.push.2.paht: no such key, did you mean"),
    (push("kind='file'\npath=3"), "checkpoints.push.1.path: wanted a string, is 3"),
    (push("kind='file'"), "checkpoints.push.1.path: not set"),
    (push("kind='file'\npath='a'"), "checkpoints.push.1.path: wanted an absolute path"),
    (push("kind='file'\npath='/a'\nurl='http://h'"), "push.1.url: means nothing for kind 'file', which has path"),
    (push("kind='file'\npath='/a'", "kind='file'\npath='/b'"), "push.2.name: wanted a name of its own"),
    (push("kind='file'\npath='/a'\nname='a b'"), "push.1.name: wanted letters"),
    (push("kind='syslog'\naddress='logs:514'"), "push.1.address: wanted 'unix:PATH'"),
    (push("kind='syslog'\naddress='unix:log'"), "push.1.address: wanted 'unix:PATH'"),
    (push("kind='syslog'\nca_file='/ca'"), "push.1.ca_file: set without TLS: the address is 'unix:/dev/log'"),
    (push("kind='syslog'\naddress='tcp://h'\nca_file='/ca'"), "push.1.ca_file: set without TLS"),
    (push("kind='syslog'\naddress='tls://h'\nca_file='ca'"), "push.1.ca_file: wanted an absolute path"),
    (push("kind='syslog'\ntoken_file='/t'"), "push.1.token_file: means nothing for kind 'syslog'"),
    (push("kind='http'"), "push.1.url: wanted an http or https URL, is ''"),
    (push("kind='http'\nurl='ftp://h'"), "push.1.url: wanted an http or https URL"),
    (push("kind='http'\nurl='https://é'"), "push.1.url: wanted an http or https URL"),
    (push("kind='http'\nurl='http://h'\ntoken_file='/t'"), "push.1.url: wanted https where there is a token_file"),
    (push("kind='http'\nurl='http://127.0.0.1'\nca_file='/c'"), "push.1.ca_file: set without TLS: the url"),
    (push("kind='otlp'\nurl='https://h'\ntoken_file='t'"), "push.1.token_file: wanted an absolute path"),
    (push(*(f"kind='file'\npath='/a'\nname='n{number}'" for number in range(9))), "push: wanted at most 8 places"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals(file: Path, text: str, message: str) -> None:
    assert message in refused(file, text)


@pytest.mark.parametrize(
    "place",
    [
        "kind='http'\nurl='https://me:s3cret@h/'",
        "kind='http'\nurl='https://s3cret@h/'",
        "kind='otlp'\nurl='https://h/?token=s3cret'",
        "kind='syslog'\naddress='tcp://me:s3cret@h:1'",
    ],
)
def test_secrets_do_not_belong_there_and_are_not_repeated(file: Path, place: str) -> None:
    assert "s3cret" not in refused(file, push(place))


def test_a_token_may_go_to_this_machine_without_tls(file: Path) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        file.write_text(push(f"kind='http'\nurl='http://{host}:8080/x'\ntoken_file='/t'"))
        load(file)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/dev/log", Address("unix", "/dev/log")),
        ("unix://dev/log", None),
        ("unix:", None),
        (f"unix:/{'x' * 106}", Address("unix", f"/{'x' * 106}")),
        (f"unix:/{'x' * 107}", None),
        ("udp://h", Address("udp", "h", 514)),
        ("tcp://h:7", Address("tcp", "h", 7)),
        ("tcp://[::1]", Address("tcp", "::1", 601)),
        ("tls://logs.example", Address("tls", "logs.example", 6514)),
        ("tls://h:0", None),
        ("tls://h:99999", None),
        ("tls://h/x", None),
        ("tls://h?x", None),
        ("tls://h#x", None),
        ("tls://u@h", None),
        ("tls://", None),
        ("tls://h h", None),
        ("tls://é", None),
        ("tls://[::1", None),
        ("http://h", None),
        ("h:514", None),
        ("", None),
    ],
)
def test_addresses_of_syslog(text: str, address: Address | None) -> None:
    assert address_of(text) == address
