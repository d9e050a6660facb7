"""What every RPC works with: the core, the configuration it may quote, and who is connected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ocid.actors.core import Core
from ocid.actors.session import TokenIssuer
from ocid.actors.witnessing import Witnessing
from ocid.cri import present, present_stats
from ocid.cri.callers import Callers
from ocid.cri.encoded import Heads, Items
from ocid.cri.sampler import PERIOD_S, Sampler
from ocid.cri.stubs import api_pb2 as pb
from ocid.cri.subscribers import Subscribers
from ocid.domain import catalog, reference
from ocid.domain.configs import ContainerConfig, PodConfig
from ocid.domain.container import Container
from ocid.domain.pod import Pod
from ocid.errors import InvalidRequest, NotFound, Unavailable
from ocid.events.envelope import Envelope
from ocid.ids import ImageId
from ocid.ports import HandlerFeatures
from ocid.projections.view import View


@dataclass(frozen=True)
class Streaming:
    """How clients of exec, attach and port-forward reach this daemon."""

    base_url: str  # "http://127.0.0.1:41234", without a slash at its end
    tokens: TokenIssuer
    sessions_max: int = 256  # open or waiting for their clients


@dataclass
class Facade:
    """One per daemon."""

    core: Core
    config_json: bytes  # for Status with verbose
    warnings: tuple[str, ...] = ()  # of the start: shown by Status
    usual_peers: tuple[str, ...] = ()  # programs whose changes are usual, see ``ocid.cri.callers``
    open: bool = False  # recovery has finished
    streaming: Streaming | None = None  # None while no streaming server runs
    witnessing: Witnessing | None = None  # who is sent checkpoints
    subscribers: Subscribers = field(default_factory=Subscribers)
    stats_period_s: float = PERIOD_S
    pod_items: Items[Pod, PodConfig] = field(
        default_factory=lambda: Items(pb.ListPodSandboxResponse, "items", present.pod_item)
    )
    container_items: Items[Container, ContainerConfig] = field(
        default_factory=lambda: Items(pb.ListContainersResponse, "containers", present.container_item)
    )
    container_heads: Heads[Container, ContainerConfig] = field(
        default_factory=lambda: Heads(pb.ContainerStats, "attributes", present_stats.container_attributes)
    )
    pod_heads: Heads[Pod, PodConfig] = field(
        default_factory=lambda: Heads(pb.PodSandboxStats, "attributes", present_stats.pod_attributes)
    )
    sampler: Sampler = field(init=False)
    callers: Callers = field(init=False)

    def __post_init__(self) -> None:
        self.callers = Callers(self.core, self.usual_peers)
        self.sampler = Sampler(self.core, self.stats_period_s)

    @property
    def view(self) -> View:
        """The projections of the log."""
        return self.core.view

    def require_open(self) -> None:
        """Refuse to answer before recovery has finished.

        Raises:
            Unavailable: it has not.
        """
        if not self.open:
            raise Unavailable("the daemon is still comparing its log with the host; try again in a moment")

    def handler(self, name: str) -> HandlerFeatures:
        """Return a runtime handler by name.

        Raises:
            InvalidRequest: none of that name is configured.
        """
        handlers = self.core.host.runtime.handlers()
        if name not in handlers:
            raise InvalidRequest(
                f"runtime handler {name!r} is not configured: have {', '.join(sorted(map(repr, handlers)))}"
            )
        return handlers[name]

    def image_id(self, name: str) -> ImageId:
        """Find an image by tag, by digest, by id or by the beginning of its id.

        Raises:
            NotFound: no image has that name.
        """
        state = self.catalog_state()
        found = catalog.find(state, name)
        if found is None:
            try:
                found = catalog.find(state, str(reference.parse(name)))
            except InvalidRequest:
                found = None
        if found is None:
            raise NotFound("image", name)
        return found

    def catalog_state(self) -> catalog.Catalog:
        """Return the catalog as of the last event."""
        row = self.view.catalog.rows.get("images")
        state: catalog.Catalog = catalog.INITIAL if row is None else row.state
        return state

    def publish(self, envelopes: Iterable[Envelope]) -> None:
        """Hand new events to those who follow container events; called right after the view has them."""
        for envelope in envelopes:
            self.subscribers.offer(self, envelope)
            self.sampler.notice(envelope)
