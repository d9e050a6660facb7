"""The nftables table as nft lists it, compared with what it has to be. Pure.

Both texts come from the same nft, so a rule that is the same reads the same. A table is a list of blocks (chains, sets
and maps), a block a list of lines: rules in their order, elements in any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ocid.domain.drift import NOTHING, RULES, Difference
from ocid.domain.hostports import Held, HostPort

ORDER: Final = "its rules in this order"
_ELEMENTS: Final = re.compile(r"elements = \{(.*)\}", re.DOTALL)
_ELEMENT: Final = re.compile(r'(?:[^,"]|"[^"]*")+')  # commas within quotes part nothing
_GUARDED: Final = "set guarded"


def explained(found: Held, must: Iterable[HostPort], may: Iterable[HostPort]) -> Held:
    """Return what the table is to hold, when it was *found* to hold this: all that must be, and what else may be.

    Interfaces of CNI networks stay guarded as long as they are there, and a port that only may be there is told by
    pod, key and aim: by which interface it goes is nothing that the log knows.
    """
    allowed = {(port.pod_id, port.key, port.address, port.container_port) for port in may}
    kept = [
        port for port in found.ports.values() if (port.pod_id, port.key, port.address, port.container_port) in allowed
    ]
    return Held(ports={port.key: port for port in (*kept, *must)}, devices=found.devices)


def blocks(listing: str) -> dict[str, tuple[str, ...]]:
    """Read ``nft list table``: the lines of each block, by its heading ("chain guard", "map ports4")."""
    found: dict[str, tuple[str, ...]] = {}
    heading, inner = "", list[str]()
    for line in listing.splitlines():
        depth = len(line) - len(line.lstrip("\t"))
        text = line.strip()
        if depth == 1 and text.endswith("{"):
            heading, inner = text.removesuffix("{").strip(), []
        elif depth == 1 and text == "}":
            found[heading], heading = _lines(inner), ""
        elif heading and text:
            inner.append(text)
    return found


def _lines(inner: list[str]) -> tuple[str, ...]:
    """Take the elements of a set or map apart; nft breaks them over lines."""
    text = "\n".join(inner)
    held = _ELEMENTS.search(text)
    if held is None:
        return tuple(inner)
    elements = (" ".join(one.split()) for one in _ELEMENT.findall(held[1]))
    return (*text[: held.start()].split("\n"), *sorted(one for one in elements if one))


def compare_rules(
    table: str, wanted: Mapping[str, tuple[str, ...]], found: Mapping[str, tuple[str, ...]], seqs: Mapping[str, int]
) -> tuple[Difference, ...]:
    """Return what the table lacks and what it has too much, line by line.

    Args:
        seqs: pod id → the seq that a difference in an element of that pod cites.
    """
    differences: list[Difference] = []
    for block in [*wanted, *(one for one in found if one not in wanted)]:
        subject = f"table {table}, {block}"
        if block not in found or block not in wanted:
            text = "; ".join(filter(None, wanted.get(block, found.get(block, ())))) or "empty"
            expected, is_there = (text, NOTHING) if block in wanted else (NOTHING, text)
            differences.append(Difference(kind=RULES, subject=subject, expected=expected, found=is_there))
            continue
        missing, strange = _without(wanted[block], found[block]), _without(found[block], wanted[block])
        differences += [
            Difference(kind=RULES, subject=subject, expected=line, found=NOTHING, seq=_seq(line, seqs))
            for line in missing
        ]
        differences += [
            Difference(kind=RULES, subject=subject, expected=NOTHING, found=line, seq=_seq(line, seqs))
            for line in strange
            if block != _GUARDED  # dropping packets from and to 127.0.0.0/8 of an interface more leads nothing astray
        ]
        if not missing and not strange and wanted[block] != found[block]:
            differences.append(
                Difference(kind=RULES, subject=subject, expected=ORDER, found="; ".join(found[block]))
            )  # fmt: skip
    return tuple(differences)


def _without(lines: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    """Return the *lines* that *others* has not as often."""
    left = list(others)
    missing = []
    for line in lines:
        if line in left:
            left.remove(line)
        elif line:
            missing.append(line)
    return missing


def _seq(line: str, seqs: Mapping[str, int]) -> int:
    return next((seqs[word] for word in re.split(r'[\s"]+', line) if word in seqs), 0)
