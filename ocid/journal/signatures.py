"""Checking Ed25519 signatures. RFC 8032 section 5.1.7."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether the signature is this key's and right. See ``ocid.domain.note.Check``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
