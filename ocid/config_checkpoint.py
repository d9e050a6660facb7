"""The part of the configuration that is about container checkpoints; see ``ocid.config``."""

from __future__ import annotations

import msgspec


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """[checkpoint] Containers that go on from a checkpoint of another one.

    A checkpoint is not data but a stopped program: CRIU, which has all rights, gives its processes the credentials,
    capabilities and seccomp filters that are written in it, not those of the pod. Whoever may name a checkpoint in a
    pod may then run anything as root of the node. So this is for nodes all of whose users are trusted as root is.
    """

    restore: bool = False  # CreateContainer takes the path of an archive, or an image that holds one, as its image
