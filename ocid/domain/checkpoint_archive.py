"""What an archive of a container checkpoint may contain, and what it says of the container that was checkpointed.

Archives come from strangers. Only names of this list are unpacked, as files and directories of root's; other names are
passed over, and a name that leaves the archive, a link, a device or a name that is there twice makes all of it refused.
The layout is the one that ``ocid.adapters.archives`` writes, and other runtimes too.

Unpack workers import this module, so it imports next to nothing.

Source: checkpointctl, "Checkpoint archive layout"; annotations of CRI-O, "io.kubernetes.cri-o.Annotations".
"""

from __future__ import annotations

from ocid.domain import archive, tar
from ocid.domain.archive import shown
from ocid.errors import EffectFailed

TYPE_CHECKING = False  # as in typing, whose import takes longer than all others here together
if TYPE_CHECKING:
    from typing import Final

IMAGES: Final = b"checkpoint"  # the directory of CRIU's images; there are no directories in it
DIFF: Final = b"rootfs-diff.tar"
DELETED: Final = b"deleted.files"
CONFIG: Final = b"config.dump"
SPEC: Final = b"spec.dump"
STATUS: Final = b"status.dump"
INVENTORY: Final = b"checkpoint/inventory.img"
DOCUMENTS: Final = (CONFIG, SPEC, STATUS)  # what is read before anything is unpacked
REQUIRED: Final = (CONFIG, SPEC, INVENTORY)
KEPT: Final = frozenset({*DOCUMENTS, DIFF, DELETED})  # beside the images
ENTRIES_MAX: Final = 20_000  # CRIU writes a dozen for the container, and five for each of its processes
DOCUMENT_BYTES_MAX: Final = 1 << 20
DELETED_BYTES_MAX: Final = 16 << 20
IMPLIED_MAX: Final = 100_000  # directories that changed files are in, and that no entry describes


class Members:
    """The entries of one archive, in turn."""

    def __init__(self) -> None:
        self.found: set[bytes] = set()

    def place(self, entry: tar.Entry) -> bytes | None:
        """Return where the entry belongs, or None when it is passed over.

        Raises:
            EffectFailed: it is refused, and the archive with it.
        """
        if entry.kind not in (tar.FILE, tar.DIRECTORY):
            raise EffectFailed(f"entry {shown(entry.name)} is neither a file nor a directory: refused")
        path = archive.path_of(entry.name)
        if entry.kind == tar.DIRECTORY:
            if path in KEPT or path.startswith(IMAGES + b"/"):
                raise EffectFailed(f"entry {shown(entry.name)} is a directory, wanted a file: refused")
            return path if path == IMAGES else None
        if path == IMAGES:
            raise EffectFailed(f"entry {shown(entry.name)} is a file, wanted a directory: refused")
        directory, _, name = path.rpartition(b"/")
        if path not in KEPT and directory != IMAGES:
            if directory.startswith(IMAGES + b"/"):
                raise EffectFailed(f"entry {shown(entry.name)} is below a directory of images: refused")
            return None
        if path in self.found:
            raise EffectFailed(f"entry {shown(entry.name)} is there twice: refused, for what it means is unclear")
        if directory == IMAGES and not _is_plain(name):
            raise EffectFailed(f"entry {shown(entry.name)} has a name that CRIU gives no image: refused")
        _check_size(path, entry)
        self.found.add(path)
        return path

    def require(self) -> None:
        """Check, at the archive's end, that all was there that a restore needs.

        Raises:
            EffectFailed: something is missing.
        """
        missing = [name.decode() for name in REQUIRED if name not in self.found]
        if missing:
            raise EffectFailed(f"it has no {missing[0]!r}, so it is no archive of a container checkpoint")


def _is_plain(name: bytes) -> bool:
    return all(48 <= one <= 57 or 65 <= one <= 90 or 97 <= one <= 122 or one in b"._-" for one in name)


def _check_size(path: bytes, entry: tar.Entry) -> None:
    limit = DOCUMENT_BYTES_MAX if path in DOCUMENTS else DELETED_BYTES_MAX if path == DELETED else None
    if limit is not None and entry.size > limit:
        raise EffectFailed(f"entry {shown(entry.name)} has {entry.size} bytes, the limit is {limit}: refused")
