"""What plugins want of containers that exist: that their resources change, or that they end."""

from __future__ import annotations

import msgspec

from ocid.actors.actor import Actor
from ocid.actors.host import Host
from ocid.domain.configs import LinuxResources
from ocid.domain.container import Container, Stop
from ocid.domain.container_update import Update, brief, refusal, settled
from ocid.domain.nri import Resources
from ocid.domain.nri_limits import check_changeable, wider
from ocid.errors import Unavailable, WrongState
from ocid.events.envelope import Context
from ocid.ids import digest_of

EVICTION_GRACE_MS = 0  # as other runtimes have it: whoever evicts does not wait
REASON_CHARS_MAX = 256


async def update(
    host: Host, actor: Actor[Container], wanted: Resources, plugins: tuple[str, ...], *, wait: bool
) -> None:
    """Have *wanted* put into force. Plugins are not asked in turn: whoever wants this may be in hand right now.

    Raises:
        WrongState: the container is being made, being stopped, or ended.
        Unsupported, InvalidRequest: what is wanted cannot be.
        EffectFailed: kernel or OCI runtime refused; all limits are what they were.
    """
    check_changeable(wanted, ", ".join(plugins))
    change, update_id = wider(LinuxResources(), wanted), host.new_id(16)
    if change == wider(LinuxResources(), Resources()):
        return
    document = msgspec.json.encode(change)
    command = Update(update_id=update_id, change=digest_of(document), brief=brief(change), plugins=plugins)
    await actor.ask(command, _context(host), (document,))
    if wait:
        state = await actor.until(lambda one: settled(one.limits, update_id) or one.ended or one.stop is not None)
        error = refusal(state.limits, update_id, _name(state), "stopping" if not state.ended else state.phase)
        if error is not None:
            raise error


async def evict(host: Host, actor: Actor[Container], plugin: str, reason: str, *, wait: bool) -> None:
    """Have a container ended.

    Raises:
        WrongState: it is being made.
        Unavailable: it survives SIGKILL. It goes on being killed.
    """
    if actor.state.prepared is None and not actor.state.ended:
        raise WrongState("container", _name(actor.state), wants="created or running", is_now=actor.state.phase)
    now = host.clock.boot_ns()
    stop = Stop(grace_ms=EVICTION_GRACE_MS, now_boot_ns=now, plugin=plugin, reason=reason[:REASON_CHARS_MAX])
    await actor.ask(stop, _context(host))
    if wait:
        state = await actor.until(lambda one: one.ended or one.failures > 0)
        if not state.ended:
            raise Unavailable(f"evicting {actor.stream}: {state.last_error}; it is being tried again")


def _context(host: Host) -> Context:
    return Context(correlation=host.new_id(16))


def _name(state: Container) -> str:
    return "" if state.declared is None else state.declared.container_id
