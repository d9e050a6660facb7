"""A log as a list: events of streams, numbered as the journal numbers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ocid.errors import NotFound
from ocid.events.base import Event
from ocid.events.envelope import DAEMON, Envelope
from ocid.ids import Digest, StreamId, digest_of
from ocid.projections.view import View


class Log:
    """Numbers events and folds them into a view."""

    def __init__(self, documents: Iterable[bytes] = ()) -> None:
        self.envelopes: list[Envelope] = []
        self.documents: Mapping[Digest, bytes] = {digest_of(one): one for one in (b"{}", *documents)}
        self.view = View(self.document)
        self._versions: Counter[str] = Counter()

    def document(self, digest: Digest) -> bytes:
        if digest not in self.documents:
            raise NotFound("document", digest)
        return self.documents[digest]

    def add(self, stream: str, *events: Event) -> Envelope:
        """Append *events* to *stream*, and return the last one's envelope."""
        for event in events:
            self._versions[stream] += 1
            envelope = Envelope(
                seq=len(self.envelopes) + 1,
                stream=StreamId(stream),
                version=self._versions[stream],
                type=event.TYPE,
                type_version=event.VERSION,
                wall_ns=1,
                boot_ns=1,
                boot_id="00000000-0000-4000-8000-000000000000",
                epoch=1,
                context=DAEMON,
                event=event,
            )
            self.envelopes.append(envelope)
            self.view.apply(envelope)
        return self.envelopes[-1]

    def folded(self) -> View:
        """Fold the whole log anew."""
        view = View(self.document)
        for envelope in self.envelopes:
            view.apply(envelope)
        return view

    def restored(self) -> View:
        """Return the view as its own snapshot gives it."""
        view = View(self.document)
        view.restore(self.view.snapshot())
        return view
