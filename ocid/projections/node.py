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
    given_up: dict[str, str] = {}  # stream → error
    redaction: events.RedactionConfigured | None = None
    pod_cidr: str = ""  # as the kubelet told it last

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
                    del self.peers[next(iter(self.peers))]
            case events.ActorGaveUp(stream=stream, error=error):
                self.given_up[stream] = error
            case events.RuntimeConfigured(pod_cidr=pod_cidr):
                self.pod_cidr = pod_cidr
            case events.RedactionConfigured() as redaction:
                self.redaction = redaction
            case _:
                pass
