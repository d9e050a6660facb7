"""A fake of the port of plugins: it writes down what it is told, and gives every container a variable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ocid.domain.nri import Adjusted, Change, ContainerFacts, Event, PodFacts, Resources, Updated
from ocid.errors import EffectFailed
from tests.fakes.life import Life

VARIABLE = "WATCHED=1"
MEMORY_NODES = "0-7"
Answer = Callable[[], Awaitable[None]]


class FakePlugins:
    """Port ``Plugins``. One request is in hand at a time for each container and pod, beside its own effects."""

    enabled = True

    def __init__(self, life: Life, told: list[tuple[str, str]], answers: Mapping[tuple[str, str], Answer]) -> None:
        """*told* gathers (event, id of pod or container) over all lives; *answers* is what is done then."""
        self._answers = answers
        self._life = life
        self._told = told
        self._young: set[str] = set()

    def wants(self, event: Event) -> bool:
        return True

    async def tell(self, event: Event, pod: PodFacts, container: ContainerFacts | None = None) -> None:
        about = pod.pod_id if container is None else container.container_id
        self._told.append((event.name, about))
        await self._life.step(f"plugins.{event.name}")
        if self._life.faults.mode(f"plugins.{event.name}") != "ok":
            raise EffectFailed(f"plugin 10-fake refuses {event.name}")
        if (event.name, about) in self._answers:
            await self._answers[event.name, about]()

    async def adjust(self, pod: PodFacts, container: ContainerFacts) -> Adjusted:
        self._young.add(container.container_id)
        await self.tell(Event.CREATE_CONTAINER, pod, container)
        process: dict[str, Any] = dict(container.spec["process"])
        process["env"] = [*process["env"], VARIABLE]
        change = Change(plugin="10-fake", field="env", key="WATCHED")
        return Adjusted(spec={**container.spec, "process": process}, changes=(change,))

    async def update(self, pod: PodFacts, container: ContainerFacts, wanted: Resources) -> Updated:
        """Every change gets memory nodes."""
        await self.tell(Event.UPDATE_CONTAINER, pod, container)
        more = msgspec.structs.replace(wanted, cpu_mems=MEMORY_NODES)
        return Updated(resources=more, changes=(Change(plugin="10-fake", field="cpu mems"),))

    def settled(self, name: str) -> bool:
        known = name in self._young
        self._young.discard(name)
        return known
