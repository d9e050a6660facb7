"""What a view of the log says is on the host now: the claims that ``ocid drift`` checks. Pure.

A claim is made of what a fact in the log says was made, as long as no fact says that it is gone or that somebody began
to take it down. In between anything may be there. What was taken down is claimed by nobody, so what is left of it is a
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from ocid.domain.container import Container
from ocid.domain.drift import (
    ADDRESSES,
    ANYTHING,
    CGROUP,
    DIRECTORY,
    FREEZER,
    ITS_OWN,
    LAYER,
    LINK,
    MEMBERSHIP,
    MONITOR,
    MOUNT,
    NAMESPACE,
    NOTHING,
    PRESENT,
    PROCESS,
    STATE,
    SYSCTL,
    THE_HOSTS,
    Asked,
    Claim,
    Expected,
    Inside,
    Life,
    Network,
    Thing,
    Where,
    bridge_text,
    layer_name,
    namespace_text,
    overlay_text,
    port_text,
    process_text,
    state_text,
)
from ocid.domain.hostports import HostPort, host_ports
from ocid.domain.ipam import gateway
from ocid.domain.pod import Pod
from ocid.domain.spec.cgroups import CgroupDriver, cgroups_path, directory_of, parent_path
from ocid.errors import OcidError
from ocid.events import container as container_events, pod as pod_events
from ocid.ids import Digest
from ocid.projections.fold import Row
from ocid.projections.view import View

_KINDS: Final = {"mount": "mnt", "network": "net"}  # OCI's names of namespaces where the kernel has others
_SEEN: Final = ("mnt", "net", "pid", "uts", "ipc", "user")  # a cgroup namespace says nothing of isolation


def expected(view: View, where: Where, document: Callable[[Digest], bytes]) -> Expected:
    """Return everything that the log says of the host, and what the host has to be asked for that.

    Args:
        document: returns a stored document by its digest; what an ``OcidError`` keeps from it is not claimed.
    """
    claims: list[Claim] = []
    lives: list[Life] = []
    for name, container in view.containers.rows.items():
        if container.state.declared is not None:
            claims += _of_container(view, name, container, container.state.declared)
            lives += _life_of_container(view, name, container, document)
    for name, pod in view.pods.rows.items():
        if pod.state.declared is not None:
            claims += _of_pod(view, name, pod, pod.state.declared, where)
            lives += _life_of_pod(name, pod, pod.state.declared, where)
    for life in lives:
        claims += _of_life(life, view)
    for chain_id, layer in view.layers.rows.items():
        wanted = PRESENT if layer.state.is_ready else ANYTHING
        claims.append(_claim(LAYER, layer_name(chain_id), wanted, layer.seq))
    network = _network(view, where)
    claims += _of_network(network)
    driver = CgroupDriver(where.cgroup_driver)
    claims.append(_claim(CGROUP, parent_path(driver, where.cgroup_parent), ANYTHING, 0))
    asked = Asked(
        where=where,
        lives=tuple(lives),
        cgroups=tuple(one.thing.name for one in claims if one.thing.kind == CGROUP and one.seq),
        parents=tuple(dict.fromkeys(_parents(view, driver))),
        links=tuple(one.thing.name for one in claims if one.thing.kind == LINK and one.thing.name != where.bridge),
        insides=tuple(_insides(view)),
        network=network,
    )
    return Expected(asked=asked, claims=tuple(claims))


def _claim(kind: str, name: str, expected: str, seq: int, given: Thing | None = None) -> Claim:
    return Claim(thing=Thing(kind, name), expected=expected, seq=seq, given=given)


# --- containers -------------------------------------------------------------------------------------------------------


def _is_up(state: Container) -> bool:
    """Say whether the container was prepared and has not ended: its root file system has to be mounted."""
    return state.prepared is not None and not state.ended


def _of_container(view: View, name: str, row: Row[Container], declared: container_events.Declared) -> Iterator[Claim]:
    state, seq = row.state, row.seq
    up = _is_up(state)
    yield _claim(DIRECTORY, declared.bundle, PRESENT if up else ANYTHING, seq)
    has_layer = state.prepared is not None and not state.remove_wanted
    yield _claim(DIRECTORY, declared.writable, PRESENT if has_layer else ANYTHING, seq)
    if state.released:
        return
    root = Thing(MOUNT, f"{declared.bundle}/rootfs")
    yield _claim(*root, overlay_text(declared.writable) if up else ANYTHING, seq)
    if not up:
        yield _claim(MOUNT, f"{declared.bundle}/mapped", ANYTHING, seq)
    for number, mount in enumerate(_mounts(view, name)):
        if mount.image is not None:
            yield _claim(MOUNT, f"{declared.bundle}/images/{number}", PRESENT if up else ANYTHING, seq)
    yield _claim(CGROUP, directory_of(declared.cgroup), ANYTHING, seq)
    has_state = up and state.created is not None
    yield _claim(STATE, name, state_text(state.created.pid) if has_state and state.created else ANYTHING, seq)


def _mounts(view: View, name: str) -> tuple[Any, ...]:
    try:
        return view.containers.config(name).mounts
    except (OcidError, msgspec.MsgspecError):
        return ()


def _life_of_container(
    view: View, name: str, row: Row[Container], document: Callable[[Digest], bytes]
) -> Iterator[Life]:
    state, declared = row.state, row.state.declared
    if state.created is None or declared is None:
        return
    namespaces = {} if state.ended else _namespaces(state, document)
    plain = ".." not in declared.cgroup.split("/") and declared.cgroup.strip("/") != ""
    closed = plain and state.start_wanted and not state.ended and not _is_visited(view, name)
    yield Life(
        stream=f"container/{name}",
        pid=state.created.pid,
        start_ticks=state.created.start_ticks,
        cgroup=directory_of(declared.cgroup),
        namespaces=namespaces,
        bundle="" if state.ended else declared.bundle,
        closed=closed,
    )


def _namespaces(state: Container, document: Callable[[Digest], bytes]) -> Mapping[str, str]:
    """Return which namespace of each kind the specification in the log gives the container."""
    assert state.prepared is not None, "what was created was prepared before"
    try:
        spec = msgspec.json.decode(document(state.prepared.spec))
        listed = {_KINDS.get(one["type"], one["type"]): one.get("path", "") for one in spec["linux"]["namespaces"]}
    except (OcidError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return {}
    return {kind: (listed[kind] or ITS_OWN) if kind in listed else THE_HOSTS for kind in _SEEN}


def _is_visited(view: View, name: str) -> bool:
    """Say whether the daemon itself has, or may have, processes among the container's: commands, checkpoints."""
    asked = [row.state.requested for row in view.execs.rows.values() if not row.state.ended]
    made = [row.state.requested for row in view.checkpoints.rows.values() if not row.state.ended]
    sessions = [row.state.requested for row in view.sessions.rows.values() if not row.state.ended]
    return any(one is not None and one.container_id == name for one in (*asked, *made, *sessions))


# --- pods -------------------------------------------------------------------------------------------------------------


def _is_whole(state: Pod) -> bool:
    """Say whether the pod's own things have to be there."""
    return state.prepared and not state.stop_wanted and state.lost is None


def _is_attached(state: Pod) -> bool:
    return _is_whole(state) and state.attached is not None and not state.detached


def _of_pod(view: View, name: str, row: Row[Pod], declared: pod_events.Declared, where: Where) -> Iterator[Claim]:
    state, seq = row.state, row.seq
    if state.stopped:
        return
    up = _is_whole(state)
    yield _claim(DIRECTORY, declared.run_dir, PRESENT if up else ANYTHING, seq)
    for pin in _pins(declared).values():
        yield _claim(MOUNT, pin, "namespace" if up else ANYTHING, seq)
    if not declared.host_ipc:
        yield _claim(MOUNT, f"{declared.run_dir}/shm", "tmpfs" if up else ANYTHING, seq)
    if declared.shared_pid:
        yield _claim(CGROUP, _pause_cgroup(declared, where), ANYTHING, seq)
        pause = state.pause if up else None
        yield _claim(STATE, name, ANYTHING if pause is None else state_text(pause.pid), seq)
    for above in _ancestors(parent_path(CgroupDriver(where.cgroup_driver), declared.cgroup_parent)):
        yield _claim(CGROUP, above, ANYTHING, 0)
    if declared.interface and not state.detached:
        yield _claim(LINK, declared.interface, port_text(where.bridge) if _is_attached(state) else ANYTHING, seq)
    if _is_attached(state) and state.attached is not None:
        given = Thing(MOUNT, declared.netns)
        yield _claim(ADDRESSES, f"pod/{name}", ", ".join(sorted(state.attached.addresses)), seq, given)


def _pins(declared: pod_events.Declared) -> dict[str, str]:
    """Return where the pod's own namespaces are pinned, by kind."""
    pins = {"user": declared.userns} if declared.userns else {}
    if not declared.host_ipc:
        pins["ipc"] = f"{declared.run_dir}/ns/ipc"
    if declared.netns:
        pins |= {"uts": f"{declared.run_dir}/ns/uts", "net": declared.netns}
    return pins


def _pause_cgroup(declared: pod_events.Declared, where: Where) -> str:
    driver = CgroupDriver(where.cgroup_driver)
    return directory_of(cgroups_path(driver, declared.cgroup_parent, declared.pod_id))


def _life_of_pod(name: str, row: Row[Pod], declared: pod_events.Declared, where: Where) -> Iterator[Life]:
    state = row.state
    if state.pause is None or (not _is_whole(state) and not state.stopped):
        return
    up = not state.stopped
    yield Life(
        stream=f"pod/{name}",
        pid=state.pause.pid,
        start_ticks=state.pause.start_ticks,
        cgroup=_pause_cgroup(declared, where),
        namespaces={**_pins(declared), "pid": ITS_OWN} if up else {},
        closed=up,
    )


def _parents(view: View, driver: CgroupDriver) -> Iterator[str]:
    for row in view.pods.rows.values():
        if row.state.declared is not None and not row.state.stopped:
            yield parent_path(driver, row.state.declared.cgroup_parent)


def _ancestors(path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts)):
        yield "/" + "/".join(parts[: depth + 1])


# --- processes --------------------------------------------------------------------------------------------------------


def _of_life(life: Life, view: View) -> Iterator[Claim]:
    aggregate, _, name = life.stream.partition("/")
    row: Row[Any] = (view.containers if aggregate == "container" else view.pods).rows[name]
    over = row.state.ended if aggregate == "container" else row.state.stopped
    process = Thing(PROCESS, life.stream)
    if over:
        settled = aggregate == "pod" or row.state.exited is not None or row.state.released
        yield _claim(*process, NOTHING if settled else ANYTHING, row.seq)
        yield _claim(MEMBERSHIP, life.stream, ANYTHING, row.seq)
        yield _claim(FREEZER, life.stream, ANYTHING, row.seq)
        return
    yield _claim(*process, process_text(life.pid, life.start_ticks), row.seq)
    yield _claim(MEMBERSHIP, life.stream, life.cgroup, row.seq, process)
    frozen = NOTHING if life.closed or aggregate == "pod" else ANYTHING
    yield _claim(FREEZER, life.stream, frozen, row.seq, process)
    for kind, wanted in life.namespaces.items():
        yield _claim(NAMESPACE, f"{life.stream} {kind}", namespace_text(wanted), row.seq, process)
    if life.bundle:
        yield _claim(MONITOR, life.stream, PRESENT, row.seq, process)


# --- the network ------------------------------------------------------------------------------------------------------


def _insides(view: View) -> Iterator[Inside]:
    for name, row in view.pods.rows.items():
        state, declared = row.state, row.state.declared
        if declared is not None and _is_attached(state) and state.attached is not None:
            built_in = declared.network == "bridge"
            addresses = state.attached.addresses
            yield Inside(pod_id=name, netns=declared.netns, addresses=addresses, strict=built_in)


def _network(view: View, where: Where) -> Network:
    must: list[HostPort] = []
    may: list[HostPort] = []
    used = False
    for name, row in view.pods.rows.items():
        state, declared = row.state, row.state.declared
        if declared is None or declared.network == "host" or state.detached:
            continue
        built_in = declared.network == "bridge"
        used |= built_in and _is_attached(state)
        known = state.attached.addresses if state.attached is not None else ()
        try:
            mappings = view.pods.config(name).port_mappings
            ports = host_ports(name, declared.addresses or known, mappings)
        except (OcidError, msgspec.MsgspecError):
            continue
        (must if built_in and _is_attached(state) else may).extend(ports)
    versions = {6 if ":" in subnet else 4 for subnet in where.subnets} if used else set()
    sysctls = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
    return Network(
        bridge=where.bridge,
        subnets=where.subnets,
        used=used,
        must=tuple(must),
        may=tuple(may),
        seqs={name: row.seq for name, row in view.pods.rows.items()},
        sysctls=tuple(sysctls[version] for version in sorted(versions)),
    )


def _of_network(network: Network) -> Iterator[Claim]:
    seq = max(network.seqs.values(), default=0)
    bridge = bridge_text(gateway(subnet) for subnet in network.subnets) if network.used else ANYTHING
    yield _claim(LINK, network.bridge, bridge, seq if network.used else 0)
    for name in network.sysctls:
        yield _claim(SYSCTL, name, "1", seq)
