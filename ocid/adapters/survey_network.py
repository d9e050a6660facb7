"""Looks at the network that pods share: the bridge, pods' interfaces and addresses, sysctls, the nftables table.

What the table has to be is asked of nft itself: the ruleset that the daemon would write is loaded in a network
namespace that nobody else is in and that ends at once, and listed there.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ocid.adapters import linux, netsysctls
from ocid.adapters.bridge import POD_INTERFACE
from ocid.adapters.links import index_of, inside
from ocid.adapters.netlink import Netlink
from ocid.adapters.nftables import NFT_S_MAX, Table
from ocid.domain import hostports, ipam
from ocid.domain.drift import (
    ADDRESSES,
    LINK,
    NOTHING,
    PRESENT,
    RULES,
    SYSCTL,
    Asked,
    Difference,
    Inside,
    Network,
    Thing,
    bridge_text,
    port_text,
)
from ocid.domain.drift_rules import blocks, compare_rules, explained
from ocid.errors import EffectFailed, Unavailable, Unsupported, tail

Seen = Iterator[tuple[Thing, str]]
_SYS: Final = Path("/sys/class/net")
_NFT: Final = "nft"


def links(asked: Asked) -> Seen:
    """Tell the bridge, what is in it, and the host's ends of pods' interfaces wherever they are."""
    bridge = asked.network.bridge
    ports = _SYS / bridge / "brif"
    if (_SYS / bridge).exists():
        yield Thing(LINK, bridge), _bridge(bridge)
    for name in dict.fromkeys((*asked.links, *(os.listdir(ports) if ports.is_dir() else ()))):
        if (_SYS / name).exists():
            master = _SYS / name / "master"
            yield (
                Thing(LINK, name),
                port_text(os.path.basename(os.readlink(master))) if master.exists() else "in no bridge",
            )


def _bridge(name: str) -> str:
    index = index_of(name)
    if not (_SYS / name / "bridge").is_dir() or index is None:
        return "an interface that is no bridge"
    with Netlink() as host:
        link = host.link_at(index)
        addresses = [str(one) for one in host.addresses(index) if not one.is_link_local]
    text = bridge_text(addresses)
    return text if link is not None and link.up else text.replace(", up", ", down", 1)


def insides(asked: Asked) -> Seen:
    """Tell the addresses that pods have on their first interface."""
    for pod in asked.insides:
        with suppress(FileNotFoundError):
            netns = os.open(pod.netns, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                addresses = inside(netns, _pod_addresses)
            except OSError as error:
                yield Thing(ADDRESSES, f"pod/{pod.pod_id}"), f"not to be seen: {error.strerror}"
                continue
            finally:
                os.close(netns)
            yield Thing(ADDRESSES, f"pod/{pod.pod_id}"), ", ".join(sorted(_told(pod, addresses)))


def _told(pod: Inside, addresses: set[str]) -> set[str]:
    return addresses if pod.strict else addresses & set(pod.addresses)


def _pod_addresses() -> set[str]:
    with Netlink() as pod:
        link = pod.link(POD_INTERFACE)
        found = pod.addresses(link.index) if link is not None else ()
    return {str(one.ip) for one in found if not one.is_link_local}


def sysctls(network: Network) -> Seen:
    """Tell the values of those that pods depend on."""
    for name in network.sysctls:
        yield Thing(SYSCTL, name), netsysctls.read(name)


# --- nftables ---------------------------------------------------------------------------------------------------------


def rules(network: Network) -> tuple[Difference, ...]:
    """Return how the daemon's table differs from what it has to be.

    Raises:
        Unsupported: there is no nft.
        Unavailable: nft did not end within 30 s.
        EffectFailed: nft or the kernel refused.
    """
    subnets = ipam.subnets_of(network.subnets) if network.subnets else ()
    table = Table(network.bridge, subnets)
    if not table.exists():
        lacking = Difference(
            kind=RULES,
            subject=f"table inet {table.name}",
            expected=PRESENT,
            found=NOTHING,
            seq=max(network.seqs.values(), default=0),
        )
        return (lacking,) if network.used else ()
    listed = json.loads(_nft("-j", "list", "table", "inet", table.name))
    held = explained(hostports.listed(listed, network.bridge), network.must, network.may)
    wanted = _in_scratch(hostports.ruleset(table.name, network.bridge, subnets, held), table.name)
    found = blocks(_nft("-s", "list", "table", "inet", table.name))
    return compare_rules(f"inet {table.name}", blocks(wanted), found, network.seqs)


def _in_scratch(ruleset: str, table: str) -> str:
    """Load a ruleset in a network namespace of a thread of its own, and return how nft lists it."""
    listings: list[str] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            linux.unshare(linux.CLONE_NEWNET)
            _nft("-f", "-", text=ruleset)
            listings.append(_nft("-s", "list", "table", "inet", table))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="ocid-scratch")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return listings[0]


def _nft(*arguments: str, text: str = "") -> str:
    """Run nft in this thread's network namespace, and return its output."""
    try:
        done = subprocess.run(
            [_NFT, *arguments], input=text.encode(), capture_output=True, check=False, timeout=NFT_S_MAX
        )
    except FileNotFoundError as error:
        raise Unsupported(f"no {_NFT!r} on this host: install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"looking at the nftables table: nft did not end within {NFT_S_MAX} s") from error
    if done.returncode != 0:
        raise EffectFailed(f"looking at the nftables table: nft says {tail(done.stderr)!r}")
    return done.stdout.decode("utf-8", "replace")
