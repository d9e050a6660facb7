"""Checkpoints sent to an OpenTelemetry collector: OTLP over HTTP, JSON encoding, one log record each."""

from __future__ import annotations

import os
from typing import Final

from ocid import __version__
from ocid.adapters.witness_http import Poster
from ocid.domain.witness import otlp_request, otlp_takes
from ocid.errors import EffectFailed
from ocid.ports import Clock

PATH: Final = "/v1/logs"
_JSON: Final = {"Content-Type": "application/json"}
_ANSWER_BYTES_MAX: Final = 8 << 10


def logs_url(url: str) -> str:
    """Return where a receiver at *url* takes logs. OTLP exporter specification, "Endpoint URLs for OTLP/HTTP"."""
    return url if url.endswith(PATH) else url.rstrip("/") + PATH


class OtlpWitness:
    """Implements the port ``Witness``."""

    kind = "otlp"
    keeps_all = False

    def __init__(self, name: str, poster: Poster, clock: Clock) -> None:
        self.name = name
        self._poster = poster
        self._clock = clock

    async def keep(self, note: str) -> None:
        """See ``ocid.ports.Witness.keep``. The collector took the record then; what it does with it is up to it."""
        body = otlp_request(note, wall_ns=self._clock.wall_ns(), host=os.uname().nodename, version=__version__)
        answer = await self._poster.post(_JSON, body, answer_max=_ANSWER_BYTES_MAX)
        if len(answer) > _ANSWER_BYTES_MAX or not otlp_takes(answer):
            raise EffectFailed("the collector rejected the record, or its answer is no OTLP")
