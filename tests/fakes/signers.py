"""Keys in memory, for simulations."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class FakeSigner:
    """Implements ``Signer`` with a key made from a number."""

    def __init__(self, number: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class FakeSigners:
    """Implements ``Signers``; what is in it outlives the daemon."""

    def __init__(self) -> None:
        self.keys = [FakeSigner(1)]  # the current one, and maybe its successor

    def current(self) -> FakeSigner:
        return self.keys[0]

    def successor(self) -> FakeSigner | None:
        return self.keys[1] if len(self.keys) > 1 else None

    def advance(self) -> None:
        del self.keys[0]
