"""Where a container's layers are, as the log tells it: what ``ocid drift CONTAINER`` walks. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ocid.domain import manifest
from ocid.domain.changes import Layers, Lower
from ocid.domain.drift import layer_name
from ocid.errors import EffectFailed, InvalidRequest, NotFound, OcidError
from ocid.events.container import Declared
from ocid.ids import Digest
from ocid.projections.view import View

Document = Callable[[Digest], bytes]
NAMED_MAX = 8  # containers of one name that an error names


def find_container(view: View, wanted: str) -> Declared:
    """Return the container of this id, beginning of one, or name.

    Raises:
        NotFound: there is none that is not removed.
        InvalidRequest: several are meant.
    """
    exact = view.containers.rows.get(wanted)
    named = [
        row.state.declared
        for name, row in view.containers.rows.items()
        if row.state.declared is not None and wanted and (name.startswith(wanted) or row.state.declared.name == wanted)
    ]
    if exact is not None and exact.state.declared is not None:
        return exact.state.declared
    if not named:
        raise NotFound("container", wanted)
    if len(named) > 1:
        ids = ", ".join(one.container_id[:12] for one in named[:NAMED_MAX])
        raise InvalidRequest(f"{len(named)} containers are called {wanted!r}: {ids}; name one by its id")
    return named[0]


def layers_of(view: View, declared: Declared, root: str, document: Document) -> Layers:
    """Return the container's layers.

    Raises:
        NotFound: the log has no manifest of its image any more.
        EffectFailed: what it has is none.
    """
    parsed = manifest.parse(document(declared.image_manifest))
    if not isinstance(parsed, manifest.Manifest):
        raise EffectFailed(f"the log says that container {declared.container_id} is of an index: wanted a manifest")
    chain = manifest.chain_ids(manifest.diff_ids(document(parsed.config.digest)))
    lowers = [
        Lower(chain_id=chain_id, number=number, directory=f"{root}/layers/{layer_name(chain_id)}/diff")
        for number, chain_id in enumerate(chain, 1)
    ]
    users = _users(view, declared)
    return Layers(
        upper=f"{declared.writable}/upper",
        lowers=tuple(reversed(lowers)),
        uids=users[0],
        gids=users[1],
        mount_points=_mount_points(view, declared, document),
    )


def _users(view: View, declared: Declared) -> tuple[Any, Any]:
    """Return the mappings of the pod's user namespace, of users and of groups."""
    try:
        users = view.pods.config(declared.pod_id).linux.security_context.namespace_options.user_namespace
    except (KeyError, OcidError, msgspec.MsgspecError):
        return (), ()
    return ((), ()) if users is None else (users.uids, users.gids)


def _mount_points(view: View, declared: Declared, document: Document) -> frozenset[str]:
    prepared = view.containers.rows[declared.container_id].state.prepared
    try:
        spec = msgspec.json.decode(document(prepared.spec)) if prepared is not None else {}
        return frozenset(str(one["destination"]).rstrip("/") for one in spec.get("mounts", ()))
    except (OcidError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return frozenset()
