"""One pod, container or image in full, as of a view, with the documents that its events cite. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ocid.errors import InvalidRequest, NotFound, OcidError
from ocid.events.codec import Damaged
from ocid.ids import Digest
from ocid.projections import summary
from ocid.projections.view import View

Document = Callable[[Digest], bytes]

_SHOWN: Final = 8


def inspect(view: View, wanted: str, document: Document) -> dict[str, Any]:
    """Return what *wanted* means as JSON-ready data: an id, its beginning, or a name.

    Raises:
        NotFound: nothing that was there then has that id or name.
        InvalidRequest: it fits several.
    """
    found = _candidates(view, wanted)
    if not found:
        raise NotFound("pod, container or image at that time", wanted)
    if len(found) > 1:
        names = ", ".join(f"{kind} {name[:19]}" for kind, name in found[:_SHOWN])
        raise InvalidRequest(f"{wanted!r} fits {len(found)} things: {names}; give more of the id")
    kind, name = found[0]
    match kind:
        case "pod":
            return _pod(view, name, document)
        case "container":
            return _container(view, name, document)
        case _:
            return _image(view, name, document)


def _candidates(view: View, wanted: str) -> list[tuple[str, str]]:
    """List what *wanted* fits, by whole ids, else by names, else by the beginnings of ids."""
    wanted = wanted.strip()
    things: list[tuple[str, str, tuple[str, ...]]] = []
    for pod in summary.pods(view):
        things.append(("pod", pod.id, (f"{pod.namespace}/{pod.name}", pod.name)))
        things += [("container", each.id, (each.name, f"{pod.name}/{each.name}")) for each in pod.containers]
    things += [("container", each.id, (each.name,)) for each in summary.strays(view)]
    things += [("image", each.id, each.names) for each in summary.images(view)]
    whole = [(kind, name) for kind, name, _ in things if wanted in (name, name.removeprefix("sha256:"))]
    named = [(kind, name) for kind, name, names in things if wanted in names]
    begun = [
        (kind, name)
        for kind, name, _ in things
        if wanted and (name.removeprefix("sha256:").startswith(wanted) or name.startswith(wanted))
    ]
    return whole or named or begun


def _pod(view: View, name: str, document: Document) -> dict[str, Any]:
    row = view.pods.rows[name]
    declared, attached = row.state.declared, row.state.attached
    cited: dict[str, Digest | None] = {"config": None if declared is None else declared.config}
    cited["cni_result"] = None if attached is None else attached.result
    return _whole("pod", name, row.seq, row.version, row.state.phase, row.state, cited, document)


def _container(view: View, name: str, document: Document) -> dict[str, Any]:
    row = view.containers.rows[name]
    declared, prepared = row.state.declared, row.state.prepared
    cited: dict[str, Digest | None] = {
        "config": None if declared is None else declared.config,
        "image_manifest": None if declared is None else declared.image_manifest,
        "spec": None if prepared is None else prepared.spec,
        "limits": row.state.limits.in_force,
    }
    return _whole("container", name, row.seq, row.version, row.state.phase, row.state, cited, document)


def _image(view: View, name: str, document: Document) -> dict[str, Any]:
    row = view.catalog.rows["images"]
    image = next(each for each in row.state.images.values() if each.image_id == name)
    cited: dict[str, Digest | None] = {"manifest": image.manifest, "config": Digest(image.image_id)}
    return _whole("image", name, row.seq, row.version, "present", image, cited, document)


def _whole(
    kind: str,
    name: str,
    seq: int,
    version: int,
    phase: str,
    state: object,
    cited: dict[str, Digest | None],
    document: Document,
) -> dict[str, Any]:
    read = {label: _document(digest, document) for label, digest in cited.items()}
    return {
        "kind": kind,
        "id": name,
        "seq": seq,
        "version": version,
        "phase": phase,
        "state": msgspec.to_builtins(state),
        "documents": read,
    }


def _document(digest: Digest | None, document: Document) -> dict[str, Any] | None:
    """Return a document with its digest; what is not in the log, or is no JSON, is said to be so."""
    if digest is None:
        return None
    try:
        return {"digest": digest, "content": msgspec.json.decode(document(digest))}
    except NotFound:
        return {"digest": digest, "missing": "the log does not hold this document"}
    except (OcidError, Damaged) as error:
        return {"digest": digest, "missing": str(error)}
    except msgspec.MsgspecError:
        return {"digest": digest, "missing": "it is no JSON"}
