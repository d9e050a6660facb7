"""Checkpoints posted over HTTP: the note as it is.

Redirects are refused. Nothing that the server says is repeated, for it could say our token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from ocid.adapters.http import Broken, Client, split
from ocid.adapters.witness_tls import Trust, read_token
from ocid.errors import EffectFailed, Unavailable

STALL_S: Final = 10.0
_TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}


class Poster:
    """Posts to one URL, each time over a new connection: there is one checkpoint a minute."""

    def __init__(self, url: str, *, token_file: str = "", ca_file: str = "") -> None:
        self._url = url
        self._token_file = token_file
        self._trust = Trust(ca_file)

    async def post(self, headers: Mapping[str, str], body: bytes, *, answer_max: int = 0) -> bytes:
        """Post, see that the answer is 2xx, and return the beginning of its body, *answer_max* bytes and some.

        Raises:
            Unavailable: the server cannot be reached, or speaks no HTTP.
            EffectFailed: it is not trusted, or it answered something else.
        """
        token = ""
        if self._token_file:
            token = await trio.to_thread.run_sync(read_token, Path(self._token_file), abandon_on_cancel=True)
        sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
        try:
            status, answer = await self._exchange(sent, body, answer_max)
        except Broken as error:
            raise Unavailable(_without(token, str(error))) from None
        except EffectFailed as error:
            self._trust.forget()
            raise EffectFailed(_without(token, error.message)) from None
        if not 200 <= status < 300:
            moved = ", a redirect, which is not followed: configure where it leads" if 300 <= status < 400 else ""
            raise EffectFailed(f"{split(self._url)[0]} answered {status}{moved}")
        return answer

    async def _exchange(self, headers: Mapping[str, str], body: bytes, answer_max: int) -> tuple[int, bytes]:
        context = await self._trust.context()
        client = Client(lambda _: context, stall_s=STALL_S)
        try:
            async with client.request("POST", self._url, headers, body) as response:
                return response.status, await response.read(answer_max) if answer_max else b""
        finally:
            await client.close()


class HttpWitness:
    """Implements the port ``Witness``."""

    kind = "http"
    keeps_all = False

    def __init__(self, name: str, poster: Poster) -> None:
        self.name = name
        self._poster = poster

    async def keep(self, note: str) -> None:
        """See ``ocid.ports.Witness.keep``. The server answered 2xx then."""
        await self._poster.post(_TEXT, note.encode())


def _without(token: str, message: str) -> str:
    return message.replace(token, "…") if token else message
