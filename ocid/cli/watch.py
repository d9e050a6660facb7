"""A pull as the log tells it, and two ways to draw it: bars on a terminal, lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from ocid.events import image, layer
from ocid.events.envelope import Envelope
from ocid.ports import LayerProgress
from ocid.projections.text import short, size


class LayerView(msgspec.Struct, kw_only=True):
    """One layer of the pull."""

    blob: str
    total_bytes: int
    done_bytes: int = 0
    state: str = "waiting"  # "waiting", "downloading", "unpacking", "ready", "failed"


class Watch:
    """Folds the log's events about one reference's newest pull. Pure."""

    def __init__(self, reference: str, from_seq: int) -> None:
        self.reference = reference
        self.next_seq = from_seq
        self.pull_id = ""
        self.endpoint = ""
        self.layers_wanted = 0  # that the manifest has; the ones in the store already are never "wanted"
        self.layers: dict[str, LayerView] = {}  # by chain id
        self.ended = ""  # "completed", "failed" or "abandoned"

    def apply(self, envelope: Envelope) -> None:
        """Take the next record of the log."""
        self.next_seq = envelope.seq + 1
        event = envelope.event
        if isinstance(event, image.PullRequested):
            if event.reference == self.reference:
                self.forget()
                self.pull_id = event.pull_id
        elif isinstance(event, layer.Wanted):
            if event.pull_id == self.pull_id:
                self.layers[event.chain_id] = LayerView(blob=event.blob, total_bytes=event.blob_bytes)
        elif envelope.stream.startswith("layer/"):
            self._apply_layer(self.layers.get(envelope.stream.partition("/")[2]), event)
        elif envelope.stream == f"pull/{self.pull_id}":
            self._apply_pull(event)

    def forget(self) -> None:
        """Wait for the next pull of the reference."""
        self.pull_id, self.endpoint, self.layers, self.ended = "", "", {}, ""

    def note(self, progress: Sequence[LayerProgress]) -> None:
        """Take what the daemon says of bytes."""
        by_blob = {each.digest: each for each in progress}
        for view in self.layers.values():
            known = by_blob.get(view.blob)
            if known is None or view.state in ("ready", "failed"):
                continue
            view.done_bytes = min(known.done_bytes, view.total_bytes)
            if view.done_bytes:
                view.state = "downloading" if view.done_bytes < view.total_bytes else "unpacking"

    def _apply_pull(self, event: object) -> None:
        match event:
            case image.PullResolved(endpoint=endpoint, layers=layers):
                self.endpoint, self.layers_wanted = endpoint, layers
            case image.PullCompleted():
                self.ended = "completed"
            case image.PullFailed():
                self.ended = "failed"
            case image.PullAbandoned():
                self.ended = "abandoned"
            case _:
                pass

    def _apply_layer(self, view: LayerView | None, event: object) -> None:
        if view is None:
            return
        match event:
            case layer.Ready():
                view.state, view.done_bytes = "ready", view.total_bytes
            case layer.Failed():
                view.state = "failed"
            case _:
                pass


class Picture(Protocol):
    """Something that a watch can be drawn on."""

    def draw(self, watch: Watch) -> None:
        """Show how things stand."""


class Lines:
    """One line for each thing that changed."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._said: set[str] = set()

    def draw(self, watch: Watch) -> None:
        """Write the lines that were not written yet."""
        if watch.endpoint:
            self._say(f"{watch.reference}: {watch.layers_wanted} layers from {watch.endpoint}")
        for view in watch.layers.values():
            if view.state in ("ready", "failed", "unpacking"):
                self._say(f"{short(view.blob)}: {view.state}, {size(view.total_bytes)}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._write(text)


class Bars:
    """One progress bar for each layer."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def draw(self, watch: Watch) -> None:
        """Bring the bars up to date."""
        for chain_id, view in watch.layers.items():
            if chain_id not in self._tasks:
                self._tasks[chain_id] = self._bars.add_task(
                    short(view.blob), total=view.total_bytes or None, state=view.state
                )
            self._bars.update(self._tasks[chain_id], completed=view.done_bytes, state=view.state)
