"""Who is usual, and what is out of the ordinary, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from ocid.domain.usual import configured, learned, unusual
from ocid.events.node import PeerSeen, UsualPeerSet

KUBELET, CRICTL, ID = "/usr/bin/kubelet", "/usr/bin/crictl", "ab" * 32
USUAL = UsualPeerSet(exes=(KUBELET,), uid=0, contained=False, peer=2)
TWO = UsualPeerSet(exes=("/usr/bin/k3s", KUBELET), uid=0, contained=False, configured=True)
MANY = UsualPeerSet(exes=("/a", "/b", "/c", "/d"), uid=0, contained=False, configured=True)
INSIDE = UsualPeerSet(exes=(KUBELET,), uid=0, contained=True, peer=2)


def peer(exe: str = KUBELET, **fields: Any) -> PeerSeen:
    return PeerSeen(**{"pid": 8, "start_ticks": 5, "uid": 0, "gid": 0, "exe": exe, "comm": "", "cgroup": "/", **fields})


@pytest.mark.parametrize(
    ("seen", "usual", "why"),
    [
        (peer(), USUAL, ""),
        (peer(), TWO, ""),
        (peer("/usr/bin/k3s"), TWO, ""),
        (peer(pid=9, start_ticks=77, gid=3, comm="x", cgroup="/other"), USUAL, ""),
        (peer(f"{KUBELET} (deleted)"), USUAL, ""),  # after an upgrade
        (peer(login_uid=1004, session_id=3), USUAL, ""),  # restarted by hand
        (peer(container_id=ID), INSIDE, ""),
        (peer(), INSIDE, ""),
        (peer(CRICTL), None, ""),  # nobody is usual yet
        (peer(""), None, ""),
        (peer(CRICTL), USUAL, "it runs /usr/bin/crictl; the usual peer runs /usr/bin/kubelet"),
        (peer("/usr/local/bin/kubelet"), USUAL, "it runs /usr/local/bin/kubelet; "),
        (peer(KUBELET + " (deleted) (deleted)"), USUAL, "it runs /usr/bin/kubelet (deleted); "),
        (peer("/opt" + KUBELET), TWO, "the usual peer runs /usr/bin/k3s or /usr/bin/kubelet"),
        (peer(CRICTL), MANY, "runs /a or /b or 2 others"),
        (peer(uid=1000), USUAL, "its uid is 1000; the usual peer, /usr/bin/kubelet, has uid 0"),
        (peer(container_id=ID), USUAL, "it runs in container abababababab; "),
        (peer(""), USUAL, "what it runs is not known; "),
        (peer(start_ticks=0), USUAL, "what it runs is not known; "),
        (peer(" (deleted)"), USUAL, "what it runs is not known; "),
    ],
)
def test_who_is_unusual(seen: PeerSeen, usual: UsualPeerSet | None, why: str) -> None:
    said = unusual(seen, usual)

    assert said == why if not why else why in said


@pytest.mark.parametrize(
    ("seen", "usual"),
    [
        (peer(), UsualPeerSet(exes=(KUBELET,), uid=0, contained=False, peer=12)),
        (peer(f"{KUBELET} (deleted)", uid=7), UsualPeerSet(exes=(KUBELET,), uid=7, contained=False, peer=12)),
        (peer(container_id=ID), UsualPeerSet(exes=(KUBELET,), uid=0, contained=True, peer=12)),
        (peer(CRICTL, login_uid=0), None),  # a person, root as it may be
        (peer(CRICTL, login_uid=1004), None),
        (peer(""), None),
        (peer(start_ticks=0), None),
    ],
)
def test_what_is_learned_from_the_first_that_runs_a_pod(seen: PeerSeen, usual: UsualPeerSet | None) -> None:
    assert learned(seen, 12) == usual
    if usual is not None:
        assert unusual(seen, usual) == ""


def test_the_log_is_told_what_is_configured_once_and_when_it_changes() -> None:
    first = configured((KUBELET,), 0, False, None)

    assert first == UsualPeerSet(exes=(KUBELET,), uid=0, contained=False, configured=True)
    assert configured((KUBELET,), 0, False, first) is None
    assert configured((CRICTL,), 0, False, first) == UsualPeerSet(
        exes=(CRICTL,), uid=0, contained=False, configured=True
    )
    assert configured((KUBELET,), 5, False, first) is not None
    assert configured((KUBELET,), 0, True, first) is not None
    assert configured((), 0, False, None) is None
    gone = configured((), 0, False, first)
    assert gone is not None
    assert (gone.exes, gone.configured) == ((), True)
