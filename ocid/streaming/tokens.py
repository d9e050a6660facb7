"""One-time tokens: whoever brings one within a minute gets the session that an RPC asked for.

A token is the whole authority of a client, so it is random beyond guessing and never appears in a log or an error.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

from ocid.errors import Exhausted
from ocid.ports.sessions import Grant

TOKEN_BYTES: Final = 18  # 144 bits, 24 characters
LIFE_S: Final = 60.0  # the kubelet comes at once
OUTSTANDING_MAX: Final = 1000


class Tokens:
    """The tokens that were issued and not redeemed yet."""

    def __init__(
        self,
        random: Callable[[int], bytes],
        clock: Callable[[], float],
        *,
        outstanding_max: int = OUTSTANDING_MAX,
        life_s: float = LIFE_S,
    ) -> None:
        """*random* gives that many unpredictable bytes; *clock* tells seconds that never go back."""
        self._random = random
        self._clock = clock
        self._outstanding_max = outstanding_max
        self._life_s = life_s
        self._grants: dict[str, tuple[float, Grant]] = {}  # by token, the oldest first

    def __len__(self) -> int:
        self._expire()
        return len(self._grants)

    def issue(self, grant: Grant) -> str:
        """Return a new token for *grant*, in characters that a URL may hold.

        Raises:
            Exhausted: too many are outstanding.
        """
        self._expire()
        if len(self._grants) >= self._outstanding_max:
            raise Exhausted(
                f"{len(self._grants)} streaming sessions wait for their clients, which is the limit; "
                f"each waits at most {self._life_s:g} s: try again"
            )
        raw = self._random(TOKEN_BYTES)
        assert len(raw) == TOKEN_BYTES, "the random source gives what it is asked for"
        token = base64.urlsafe_b64encode(raw).decode("ascii")
        assert token not in self._grants, "a random token does not come twice"
        self._grants[token] = (self._clock() + self._life_s, grant)
        return token

    def claim(self, token: str) -> Grant | None:
        """Redeem a token; None for one that was never issued, is too old, or was redeemed before."""
        self._expire()
        found = self._grants.pop(token, None)
        return found[1] if found is not None else None

    def _expire(self) -> None:
        now = self._clock()
        while self._grants:
            token = next(iter(self._grants))
            if self._grants[token][0] > now:
                return
            del self._grants[token]
