"""CRI Status: may this node take pods, and what can its runtime do."""

from __future__ import annotations

import msgspec

from ocid.cri.facade import Facade
from ocid.cri.stubs import api_pb2 as pb


def status(facade: Facade, request: pb.StatusRequest) -> pb.StatusResponse:
    """Answer from memory, whatever else is going on."""
    confined = facade.core.host.confinement.standing()
    unconfined = (f"apparmor: {confined.problem}",) if confined.problem else ()
    not_ready = facade.core.host.network.not_ready()
    conditions = [
        pb.RuntimeCondition(type="RuntimeReady", status=True, message="; ".join((*facade.warnings, *unconfined))),
        pb.RuntimeCondition(
            type="NetworkReady",
            status=not_ready is None,
            reason="" if not_ready is None else "NetworkPluginNotReady",
            message=not_ready or "",
        ),
    ]
    handlers = [
        pb.RuntimeHandler(
            name=name,
            features=pb.RuntimeHandlerFeatures(
                recursive_read_only_mounts=handler.recursive_read_only_mounts,
                user_namespaces=handler.user_namespaces,
            ),
        )
        for name, handler in sorted(facade.core.host.runtime.handlers().items())
    ]
    response = pb.StatusResponse(
        status=pb.RuntimeStatus(conditions=conditions),
        runtime_handlers=handlers,
        features=pb.RuntimeFeatures(supplemental_groups_policy=True, user_namespaces_host_network=False),
    )
    if request.verbose:
        response.info["config"] = facade.config_json.decode()
        response.info["apparmor"] = msgspec.json.encode(confined).decode()
        response.info["log"] = msgspec.json.encode(_log(facade)).decode()
    return response


def _log(facade: Facade) -> dict[str, object]:
    node = facade.view.node
    return {
        "seq": facade.view.seq,
        "epoch": node.started.epoch if node.started is not None else 0,
        "eventsOfUnknownTypes": facade.view.unknown,
        "actorsGivenUp": node.given_up,
        "nodeEventsDropped": facade.core.recorder.dropped,
        "witnesses": [] if facade.witnessing is None else facade.witnessing.standings(),
    }
