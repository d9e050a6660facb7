"""A table of tokens that are easy to read."""

from __future__ import annotations

from ocid.ports.sessions import Grant


class FakeTokens:
    """Issues "token1", "token2" and so on."""

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}
        self._issued = 0

    def issue(self, grant: Grant) -> str:
        self._issued += 1
        token = f"token{self._issued}"
        self.grants[token] = grant
        return token

    def claim(self, token: str) -> Grant | None:
        return self.grants.pop(token, None)
