"""TLS of the streaming server, where the configuration asks for it."""

from __future__ import annotations

import ssl

from ocid.errors import EffectFailed


def server_tls(cert: str, key: str, client_ca: str) -> ssl.SSLContext | None:
    """Return the server's side of TLS, from PEM files; None where no certificate is configured.

    Clients must show a certificate of *client_ca* if it is given.

    Raises:
        EffectFailed: a file is missing or holds something else.
    """
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        said = error.strerror or str(error)
        raise EffectFailed(f"streaming TLS ({cert!r}, {key!r}, client CA {client_ca!r}): {said}") from None
    return context
