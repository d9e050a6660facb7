"""Facts about the log itself: who signs for it, and up to where it is signed. Stream ``log/self``."""

from __future__ import annotations

from typing import ClassVar

from ocid.classes import Public, Sensitive
from ocid.events.base import Event, enter
from ocid.ids import Digest, PodId, StreamId

LOG = StreamId("log/self")


class Founded(Event, frozen=True, kw_only=True):
    """The log got a name, which all its checkpoints bear, and the key that signs them."""

    TYPE: ClassVar[str] = "log.founded"
    origin: Public  # C2SP tlog-checkpoint: "ocid/<node>/<random>"
    key: Public  # C2SP signed-note verifier key: NAME+ID+KEY


class KeyRotated(Event, frozen=True, kw_only=True):
    """Another key signs from here on, and the one before vouches for it."""

    TYPE: ClassVar[str] = "log.key_rotated"
    key: Public  # the new one
    note: Digest  # document: the new key, signed as a note by the old one


class KeyReplaced(Event, frozen=True, kw_only=True):
    """The key that signed until now is gone, and nothing vouches for the new one but this node's word."""

    TYPE: ClassVar[str] = "log.key_replaced"
    key: Public
    reason: Sensitive


class Sealed(Event, frozen=True, kw_only=True):
    """The log's first *size* records were signed for: their Merkle tree's head, as a checkpoint."""

    TYPE: ClassVar[str] = "log.sealed"
    size: int
    root: Public  # hex
    note: Digest  # document: the checkpoint with its signatures
    occasion: Public  # "start", "events", "time", "rotation" or "stop"


class Archived(Event, frozen=True, kw_only=True):
    """Records were copied to an archive, from which they can be read, checked and proven like here."""

    TYPE: ClassVar[str] = "log.archived"
    first: int  # seq
    last: int
    file: Public  # absolute path
    bytes: int
    digest: Digest  # of the file


class Trimmed(Event, frozen=True, kw_only=True):
    """Records that nothing living needs are about to be removed; what is left can still be proven."""

    TYPE: ClassVar[str] = "log.trimmed"
    through: int  # up to which record, the end of a block of 256
    kept: Digest  # document: which records up to there stay, msgpack of the steps between their seqs
    left: int  # how many that are
    reason: Sensitive  # "size" or "age"


class ArchiveRemoved(Event, frozen=True, kw_only=True):
    """An archive was removed to make room, or was found to be gone."""

    TYPE: ClassVar[str] = "log.archive_removed"
    file: Public
    first: int
    last: int
    reason: Sensitive


class WitnessFailing(Event, frozen=True, kw_only=True):
    """Nobody off the node has confirmed checkpoints through *sink* for ten minutes. In the stream ``node/self``."""

    TYPE: ClassVar[str] = "log.witness_failing"
    sink: Public  # its name in the configuration
    error: Sensitive
    unconfirmed_since_size: int  # records that its last confirmed checkpoint covers; 0 for none since the start


class WitnessRecovered(Event, frozen=True, kw_only=True):
    """What ``WitnessFailing`` told of is over. In the stream ``node/self``."""

    TYPE: ClassVar[str] = "log.witness_recovered"
    sink: Public
    confirmed_size: int


class Erased(Event, frozen=True, kw_only=True):
    """All confidential documents of a pod that is gone were erased. What cites them, and every proof, stays."""

    TYPE: ClassVar[str] = "log.erased"
    pod_id: PodId
    entries: int  # documents that can be read no more
    reason: Sensitive  # in the words of whoever wanted it
    login_uid: int = 4294967295  # theirs, /proc/PID/loginuid; 2**32 - 1 means none was set


enter(
    Founded, KeyRotated, KeyReplaced, Sealed, Archived, Trimmed, ArchiveRemoved, Erased,
    WitnessFailing, WitnessRecovered,
)  # fmt: skip
