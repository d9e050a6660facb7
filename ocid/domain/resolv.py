"""The text of a pod's /etc/resolv.conf.

Source: CRI DNSConfig; resolv.conf(5).
"""

from __future__ import annotations

from typing import Final

from ocid.domain.configs import DnsConfig
from ocid.errors import InvalidRequest

TEXT_BYTES_MAX: Final = 64 * 1024  # the kubelet allows 32 searches of 2048 characters in all
NAMESERVERS_MAX: Final = 16  # glibc reads 3, musl 3; more are legal and ignored


def resolv_conf(dns: DnsConfig | None, host_text: str) -> str:
    """The pod's resolver configuration: the config's lines, or the host's own text where there is no config.

    An empty config (no servers, searches or options) counts as none, for a pod without any resolver is no one's wish.

    Raises:
        InvalidRequest: an entry holds white space or NUL where it would begin a new word or line, or there is too much.
    """
    if dns is None or not (dns.servers or dns.searches or dns.options):
        return host_text
    if len(dns.servers) > NAMESERVERS_MAX:
        raise InvalidRequest(f"dns_config has {len(dns.servers)} servers, the limit is {NAMESERVERS_MAX}")
    lines = [f"nameserver {_word(server, 'servers')}" for server in dns.servers]
    if dns.searches:
        lines.append("search " + " ".join(_word(domain, "searches") for domain in dns.searches))
    if dns.options:
        lines.append("options " + " ".join(_word(option, "options") for option in dns.options))
    text = "\n".join(lines) + "\n"
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise InvalidRequest(
            f"dns_config makes {len(text.encode())} bytes of resolv.conf, the limit is {TEXT_BYTES_MAX}"
        )
    return text


def _word(text: str, field: str) -> str:
    if not text or len(text.split()) != 1 or text != text.strip() or "\0" in text:
        raise InvalidRequest(f"dns_config.{field} entry {text[:100]!r}: wanted one word")
    return text
