"""Who usually asks this node for changes, and when a change is asked for by somebody else. Pure.

The usual peer is the kubelet. It is told by the configuration, or it is learned: the first client that ran a pod.
Either way an event says who it is (``node.usual_peer_set``), so that the log alone decides what was out of the ordinary
at any time. Whoever can run programs as root can pose as the kubelet; the hash of what it runs is in the log.
"""

from __future__ import annotations

from typing import Final

from ocid.events.node import UNSET, PeerSeen, UsualPeerSet

SPELLED_MAX: Final = 2
DELETED: Final = " (deleted)"  # proc(5): after an upgrade, the old program runs on from a file without a name


def program_of(seen: PeerSeen) -> str:
    """Return the path of what the peer runs, also of a file that was replaced since; "" where it is not known."""
    return seen.exe.removesuffix(DELETED) if seen.start_ticks else ""


def unusual(seen: PeerSeen, usual: UsualPeerSet | None) -> str:
    """Return why a change that *seen* asks for is out of the ordinary.

    "" when it is not, and while nobody is known as usual: then there is nothing to compare with.
    """
    if usual is None:
        return ""
    program, wanted = program_of(seen), _spelled(usual.exes)
    if not program:
        return f"what it runs is not known; the usual peer runs {wanted}"
    if program not in usual.exes:
        return f"it runs {program}; the usual peer runs {wanted}"
    if seen.uid != usual.uid:
        return f"its uid is {seen.uid}; the usual peer, {wanted}, has uid {usual.uid}"
    if seen.container_id and not usual.contained:
        return f"it runs in container {seen.container_id[:12]}; the usual peer, {wanted}, runs in none"
    return ""


def learned(seen: PeerSeen, seq: int) -> UsualPeerSet | None:
    """Return what is learned from *seen*, recorded as *seq*, having run a pod while nobody is known as usual.

    None for a peer whose program is not known, and for one with a login: that is a person at work, who may well come
    before the kubelet does.
    """
    program = program_of(seen)
    if not program or seen.login_uid != UNSET:
        return None
    return UsualPeerSet(exes=(program,), uid=seen.uid, contained=bool(seen.container_id), peer=seq)


def configured(exes: tuple[str, ...], uid: int, contained: bool, before: UsualPeerSet | None) -> UsualPeerSet | None:
    """Return what to record so that the log says what is configured; None when it does.

    Args:
        exes: what the configuration names; none for "to be learned".
        uid: of the daemon itself, which the usual peer has, too.
        contained: whether the daemon itself runs in a container.
        before: what the log says.
    """
    now = UsualPeerSet(exes=exes, uid=uid, contained=contained, configured=True)
    if not exes and before is None:
        return None
    return None if now == before else now


def _spelled(exes: tuple[str, ...]) -> str:
    more = len(exes) - SPELLED_MAX
    return " or ".join(exes[:SPELLED_MAX]) + (f" or {more} others" if more > 0 else "")
