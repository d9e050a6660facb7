"""What a client of the streaming server may use up."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the server and of each of its connections. Times are seconds."""

    head_bytes: int = 16 << 10  # of a request
    request_s: float = 10.0  # for the TLS handshake and the request together
    creation_s: float = 30.0  # for the streams of an exec, or both streams of one forwarded connection
    idle_s: float = 4 * 3600.0  # without a byte in either direction; what the kubelet allows
    finish_s: float = 900.0  # for the client to take the rest and to close, once the session is over
    requests: int = 64  # connections that have not shown a token yet
    sessions: int = 256
    streams: int = 1024  # of one SPDY connection: two for each forwarded connection
    input_bytes: int = 512 << 10  # from the client and not taken yet, in one session; then it is not read any more
    output_bytes: int = 256 << 10  # for the client and not sent yet, in one session; then writers wait
