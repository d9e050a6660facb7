"""One plugin that is connected: who it is, what it listens to, and each call to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import trio
from google.protobuf.message import Message

from ocid.domain.nri import EVENTS_ALL, Event, Update
from ocid.errors import EffectFailed, InvalidRequest
from ocid.nri import told, wanted
from ocid.nri.connection import Connection, Lost, Refused, TooLarge
from ocid.nri.stubs import nri_pb2 as pb
from ocid.nri.ttrpc import Code, M
from ocid.ports.plugins import Inventory

SERVICE: Final = "nri.pkg.api.v1alpha1.Plugin"
NRI_VERSION: Final = "v0.12.0"  # the interface that we speak
NAME_CHARS_MAX: Final = 64
SYNC_BYTES: Final = 1 << 20  # of one Synchronize message, about; a single container may take more
_NAME: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_INDEX: Final = re.compile(r"[0-9][0-9]")


class Plugin:
    """A plugin, from its connection on."""

    def __init__(self, connection: Connection, request_s: float, *, pid: int = 0) -> None:
        self.connection = connection
        self.index = ""
        self.base = ""
        self.pid = pid
        self.events = 0
        self.version = ""
        self.registered = trio.Event()
        self._request_s = request_s

    @property
    def name(self) -> str:
        """Its whole name, "10-logger"."""
        return f"{self.index}-{self.base}" if self.base else f"of pid {self.pid}"

    def wants(self, event: Event) -> bool:
        """Say whether it listens to *event*, and still can."""
        return bool(self.events & event.bit) and not self.connection.closed.is_set()

    def register(self, message: pb.RegisterPluginRequest) -> None:
        """Take the name that it gives itself; one that we started has its name already.

        Raises:
            InvalidRequest: index or name cannot be, or it has registered before.
        """
        if self.registered.is_set():
            raise InvalidRequest(f"plugin {self.name} registers a second time")
        if not self.base:
            self.index, self.base = checked_name(message.plugin_idx, message.plugin_name)
        self.version = message.NRI_version[:NAME_CHARS_MAX]
        self.registered.set()

    async def configure(self, config: str, runtime_version: str, registration_s: float) -> None:
        """Give it its configuration, and learn what it listens to.

        Raises:
            EffectFailed: it refuses, or wants events that do not exist.
            Lost: it is gone.
        """
        request = pb.ConfigureRequest(
            config=config,
            runtime_name="ocid",
            runtime_version=runtime_version,
            registration_timeout=int(registration_s * 1000),
            request_timeout=int(self._request_s * 1000),
            NRI_version=NRI_VERSION,
        )
        answer = await self._call("Configure", request, pb.ConfigureResponse)
        if answer.events & ~EVENTS_ALL:
            raise EffectFailed(f"plugin {self.name} wants events that do not exist: {answer.events & ~EVENTS_ALL:#x}")
        self.events = answer.events or EVENTS_ALL

    async def synchronize(self, inventory: Inventory) -> tuple[Update, ...]:
        """Tell it all that lives, in as many messages as that takes, and return what it wants changed.

        Raises:
            EffectFailed: it refuses, or does not understand a message in parts.
            Lost: it is gone.
        """
        for request in _parts(inventory):
            answer = await self._call("Synchronize", request, pb.SynchronizeResponse)
            if request.more and (answer.update or not answer.more):
                raise EffectFailed(f"plugin {self.name} cannot take what lives on this node in parts")
        return tuple(msgspec.structs.replace(one, plugins=(self.name,)) for one in wanted.updates(answer.update))

    async def ask(self, method: str, request: Message, make: Callable[[], M]) -> M | None:
        """Make one call; None when the plugin is lost, which is its own fault: the work goes on without it.

        Raises:
            EffectFailed: it answered with an error.
        """
        try:
            return await self._call(method, request, make)
        except Lost:
            return None

    async def tell(self, event: Event, method: str, request: Message, make: Callable[[], Message]) -> None:
        """Tell it of an event. Plugins from before each event had a call of its own get StateChange.

        Raises:
            EffectFailed: it answered with an error.
        """
        try:
            await self.connection.call(SERVICE, method, request, make, self._request_s)
        except Lost:
            return
        except (Refused, TooLarge) as error:
            if not isinstance(error, Refused) or error.code != Code.UNIMPLEMENTED:
                raise EffectFailed(f"plugin {self.name} refuses {method}: {error}") from error
            change = pb.StateChangeEvent(event=pb.Event.ValueType(event))
            for field in ("pod", "container"):
                if field in request.DESCRIPTOR.fields_by_name and request.HasField(field):
                    getattr(change, field).CopyFrom(getattr(request, field))
            await self.ask("StateChange", change, pb.Empty)

    async def shut_down(self) -> None:
        """Tell it that the runtime goes away, whatever it says to that."""
        try:
            await self._call("Shutdown", pb.Empty(), pb.Empty)
        except (Lost, EffectFailed):
            return

    async def _call(self, method: str, request: Message, make: Callable[[], M]) -> M:
        try:
            return await self.connection.call(SERVICE, method, request, make, self._request_s)
        except (Refused, TooLarge) as error:
            raise EffectFailed(f"plugin {self.name} refuses {method}: {error}") from error


def checked_name(index: str, base: str) -> tuple[str, str]:
    """Return index and name of a plugin as given.

    Raises:
        InvalidRequest: they are none.
    """
    if not _INDEX.fullmatch(index):
        raise InvalidRequest(f"plugin index {index[:NAME_CHARS_MAX]!r}; wanted two digits")
    if len(base) > NAME_CHARS_MAX or not _NAME.fullmatch(base):
        raise InvalidRequest(
            f"plugin name {base[:NAME_CHARS_MAX]!r}; wanted 1 to {NAME_CHARS_MAX} letters, digits, '-', '_', '.', '+'"
        )
    return index, base


def _parts(inventory: Inventory) -> Iterator[pb.SynchronizeRequest]:
    """Yield the inventory in messages of about ``SYNC_BYTES``; all but the last say that there is more."""
    part, size = pb.SynchronizeRequest(more=True), 0
    pods: Sequence[pb.PodSandbox] = [told.pod(one) for one in inventory.pods]
    containers: Sequence[pb.Container] = [told.container(one) for one in inventory.containers]
    for one in (*pods, *containers):
        length = one.ByteSize()
        if size and size + length > SYNC_BYTES:
            yield part
            part, size = pb.SynchronizeRequest(more=True), 0
        if isinstance(one, pb.PodSandbox):
            part.pods.append(one)
        elif isinstance(one, pb.Container):
            part.containers.append(one)
        size += length
    part.more = False
    yield part
