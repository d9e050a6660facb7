"""What the node's own stream says: lives of the daemon, who used the socket, what was given up."""

from __future__ import annotations

import msgspec

from ocid.events import node as events
from ocid.events.envelope import Envelope

PEERS_MAX = 1024  # newest peers kept at hand; older ones are still in the log


class Node(msgspec.Struct, kw_only=True):
    """The node as of the last event."""

    started: events.Started | None = None
    recovered: events.Recovered | None = None
    stopped: bool = False
    peers: dict[int, events.PeerSeen] = {}  # seq of node.peer_seen → the peer
    hashes: dict[int, str] = {}  # the same seq → sha256 of what the peer runs, where it could be read
    configured_peer: events.UsualPeerSet | None = None  # the usual one, as the configuration had it last
    learned_peer: events.UsualPeerSet | None = None  # the usual one where the configuration names none
    given_up: dict[str, str] = {}  # stream → error
    redaction: events.RedactionConfigured | None = None
    pod_cidr: str = ""  # as the kubelet told it last

    @property
    def usual_peer(self) -> events.UsualPeerSet | None:
        """Who usually asks for changes; None while nobody is known."""
        return self.configured_peer or self.learned_peer

    def apply(self, envelope: Envelope) -> None:
        """Fold one event in."""
        match envelope.event:
            case events.Started() as started:
                self.started, self.stopped, self.recovered = started, False, None
            case events.Recovered() as recovered:
                self.recovered = recovered
            case events.Stopped():
                self.stopped = True
            case events.PeerSeen() as peer:
                self.peers[envelope.seq] = peer
                if len(self.peers) > PEERS_MAX:
                    oldest = next(iter(self.peers))
                    del self.peers[oldest]
                    self.hashes.pop(oldest, None)
            case events.PeerMeasured(peer=seq, exe_hash=exe_hash) if exe_hash and seq in self.peers:
                self.hashes[seq] = exe_hash
            case events.UsualPeerSet(configured=True) as usual:
                self.configured_peer = usual if usual.exes else None
            case events.UsualPeerSet() as usual:
                self.learned_peer = usual
            case events.ActorGaveUp(stream=stream, error=error):
                self.given_up[stream] = error
            case events.RuntimeConfigured(pod_cidr=pod_cidr):
                self.pod_cidr = pod_cidr
            case events.RedactionConfigured() as redaction:
                self.redaction = redaction
            case _:
                pass
