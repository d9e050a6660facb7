"""The part of the configuration that is about checkpoints of the log, and where they are sent; see ``ocid.config``."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator
from typing import ClassVar, Final, Literal

import msgspec

from ocid import config_files
from ocid.classes import DataClass
from ocid.config_files import Key, shown

PUSH_MAX: Final = 8
_SOCKET_BYTES_MAX: Final = 107  # unix(7)
SYSLOG_DEFAULT: Final = "unix:/dev/log"
_PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}  # RFC 5426, RFC 3195 as is usual, RFC 5425
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
_USES: Final = {
    "file": ("path",),
    "syslog": ("address", "ca_file"),
    "http": ("url", "token_file", "ca_file"),
    "otlp": ("url", "token_file", "ca_file"),
}

Problem = tuple[Key, str]


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """[[checkpoints.push]] One place that every signed checkpoint of the log is sent to.

    Nothing in it is a secret: the configuration goes into the log, and Status shows it.
    """

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    kind: Literal["file", "syslog", "http", "otlp"]
    name: str = ""  # in Status and in the log; the kind, where it is not set
    path: str = ""  # file: absolute path
    address: str = ""  # syslog: "unix:PATH", "udp://HOST[:PORT]", "tcp://…" or "tls://…"; unix:/dev/log if not set
    url: str = ""  # http: where notes are posted; otlp: of the receiver, "/v1/logs" is added
    token_file: str = ""  # http, otlp: file with a bearer token, mode 0600, absolute path
    ca_file: str = ""  # http, otlp, syslog over TLS: PEM file of authorities, instead of the system's; absolute path

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.kind


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """[checkpoints] Signed checkpoints of the log."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC

    push: tuple[Push, ...] = ()  # where they are sent, so that who takes over the node cannot write another log


class Address(msgspec.Struct, frozen=True):
    """Where a syslog daemon listens."""

    transport: str  # "unix", "udp", "tcp" or "tls"
    host: str  # or the socket's path
    port: int = 0


def address_of(text: str) -> Address | None:
    """Read the address of a syslog daemon; None if it is none."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        fits = len(path.encode()) <= _SOCKET_BYTES_MAX and not list(config_files.path_problems((), path))
        return Address("unix", path) if fits else None
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port
    except ValueError:
        return None
    plain = text.isascii() and text.isprintable() and " " not in text and "@" not in text
    if url.scheme not in _PORTS or not url.hostname or url.path or url.query or url.fragment or port == 0 or not plain:
        return None
    return Address(url.scheme, url.hostname, port or _PORTS[url.scheme])


def problems(checkpoints: Checkpoints) -> Iterator[Problem]:
    """Yield what no type can say about it, the key first; places are counted from 1."""
    at = ("checkpoints", "push")
    if len(checkpoints.push) > PUSH_MAX:
        yield at, f"wanted at most {PUSH_MAX} places, has {len(checkpoints.push)}"
    titles = [push.title for push in checkpoints.push]
    for number, push in enumerate(checkpoints.push, start=1):
        here = (*at, str(number))
        if push.name and not _NAME.fullmatch(push.name):
            yield (*here, "name"), f"wanted letters, digits, '.', '_' and '-', at most 63, is {shown(push.name)}"
        if push.title in titles[: number - 1]:
            yield (*here, "name"), f"wanted a name of its own, there is another {shown(push.title)}"
        for key in ("path", "address", "url", "token_file", "ca_file"):
            if getattr(push, key) and key not in _USES[push.kind]:
                yield (*here, key), f"means nothing for kind '{push.kind}', which has {', '.join(_USES[push.kind])}"
        for key in ("path", "token_file", "ca_file"):
            if value := getattr(push, key):
                yield from config_files.path_problems((*here, key), value)
        yield from _file_problems(here, push)
        yield from _syslog_problems(here, push)
        yield from _http_problems(here, push)


def _file_problems(at: Key, push: Push) -> Iterator[Problem]:
    if push.kind == "file" and not push.path:
        yield (*at, "path"), "not set: wanted the absolute path of a file"


def _syslog_problems(at: Key, push: Push) -> Iterator[Problem]:
    if push.kind != "syslog":
        return
    address = address_of(push.address or SYSLOG_DEFAULT)
    if address is None:
        wanted = "'unix:PATH', 'udp://HOST:PORT', 'tcp://HOST:PORT' or 'tls://HOST:PORT'"
        said = "something with a user" if "@" in push.address else shown(push.address)
        yield (*at, "address"), f"wanted {wanted}, is {said}"
    elif push.ca_file and address.transport != "tls":
        yield (*at, "ca_file"), f"set without TLS: the address is {shown(push.address or SYSLOG_DEFAULT)}"


def _http_problems(at: Key, push: Push) -> Iterator[Problem]:
    if push.kind not in ("http", "otlp"):
        return
    if "@" in push.url or "?" in push.url:
        yield (*at, "url"), "credentials and queries do not belong here: use token_file"
    elif not push.url.isascii() or not config_files.is_url(push.url):
        yield (*at, "url"), f"wanted an http or https URL, is {shown(push.url)}"
    elif not push.url.startswith("https:"):
        if push.token_file and not _loopback(urllib.parse.urlsplit(push.url).hostname or ""):
            yield (*at, "url"), "wanted https where there is a token_file: the token would go over the network readable"
        if push.ca_file:
            yield (*at, "ca_file"), "set without TLS: the url is not https"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
