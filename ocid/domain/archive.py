"""What an image layer may contain: names, links, whiteouts, types, attributes and sizes of tar entries.

Layers come from strangers. A name that leaves the layer, an attribute that would speak to the overlay file system, or
an archive that grows without bound is refused with an error that names the entry. Paths are bytes, relative to the
layer's root, without ``.`` and empty parts; the root itself is ``b""``.

Unpack workers import this module and start often, so it imports next to nothing.

Source: OCI image-spec layer.md; kernel overlayfs.rst "whiteouts and opaque directories".
"""

from __future__ import annotations

from ocid.errors import EffectFailed, Exhausted

TYPE_CHECKING = False  # as in typing, whose import takes longer than all others here together
if TYPE_CHECKING:
    from typing import Final

PATH_BYTES_MAX: Final = 4095  # PATH_MAX without the NUL
NAME_BYTES_MAX: Final = 255  # NAME_MAX
PARTS_MAX: Final = 256  # directories within directories; the deepest real trees have a third of it
LINK_BYTES_MAX: Final = 4095
SYMLINKS_MAX: Final = 40  # followed on the way to one entry, as the kernel does
XATTR_BYTES_MAX: Final = 64 << 10  # XATTR_SIZE_MAX
XATTRS_MAX: Final = 64
ID_MAX: Final = 0xFFFF_FFFE  # 0xFFFFFFFF means "no change" to chown(2)
DEVICE_MAJOR_MAX: Final = 0xFFF
DEVICE_MINOR_MAX: Final = 0xFFFFF

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."  # aufs kept its own files under these names; they mean nothing to anyone else

KEEP: Final = "keep"
REMOVE: Final = "remove"  # a whiteout: the name does not exist in the layers below
COVER: Final = "cover"  # an opaque directory: nothing of it in the layers below shows
SKIP: Final = "skip"


def shown(name: bytes) -> str:
    """Quote an entry's name for a message, shortened."""
    return repr(name[:200].decode("utf-8", "replace"))


def path_of(name: bytes) -> bytes:
    """Return the normal form of an entry's name; ``b""`` is the layer's root.

    Raises:
        EffectFailed: the name is absolute, climbs with ``..``, is too long or holds a NUL.
    """
    if name[:1] == b"/":
        raise EffectFailed(
            f"layer entry {shown(name)} has an absolute path: refused; build the layer with relative ones"
        )
    return _normal(name, name)


def link_path_of(target: bytes, name: bytes) -> bytes:
    """Return the normal form of the path that hard link *name* shares; some builders begin it with a slash.

    Raises:
        EffectFailed: it leaves the layer.
    """
    return _normal(target.lstrip(b"/"), name)


def _normal(path: bytes, name: bytes) -> bytes:
    if len(path) > PATH_BYTES_MAX:
        raise EffectFailed(f"layer entry {shown(name)}: path of {len(path)} bytes, the limit is {PATH_BYTES_MAX}")
    if b"\0" in path:
        raise EffectFailed(f"layer entry {shown(name)}: the path holds a NUL")
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if len(parts) > PARTS_MAX:
        raise EffectFailed(f"layer entry {shown(name)} is {len(parts)} directories deep, the limit is {PARTS_MAX}")
    for part in parts:
        if part == b"..":
            raise EffectFailed(f"layer entry {shown(name)}: {shown(path)} climbs out with '..': refused")
        if len(part) > NAME_BYTES_MAX:
            raise EffectFailed(f"layer entry {shown(name)}: a name longer than {NAME_BYTES_MAX} bytes")
    return b"/".join(parts)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Split a normal path into its directory and its last name."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def meaning(path: bytes) -> tuple[str, bytes]:
    """Say what an entry does, and to which path: KEEP it, REMOVE what is below, COVER a directory, or SKIP it.

    Raises:
        EffectFailed: the name uses the reserved prefix in a way that means nothing.
    """
    if b".wh." not in path:
        return KEEP, path
    directory, name = split(path)
    for part in directory.split(b"/"):
        if part.startswith(_AUFS):
            return SKIP, path
        if part.startswith(WHITEOUT):
            raise EffectFailed(f"layer entry {shown(path)} is below a whiteout: refused")
    if name == OPAQUE:
        return COVER, directory
    if name.startswith(_AUFS):
        return SKIP, path
    if not name.startswith(WHITEOUT):
        return KEEP, path
    removed = name[len(WHITEOUT) :]
    if removed in (b"", b".", b".."):
        raise EffectFailed(f"layer entry {shown(path)} is a whiteout of {shown(removed)}: refused")
    return REMOVE, directory + b"/" + removed if directory else removed


def through_link(directory: bytes, target: bytes, name: bytes) -> bytes:
    """Return where a symbolic link that stands in *directory* leads, for an entry *name* below that link.

    Only relative links that stay inside are followed: a builder that packs ``lib -> usr/lib`` and then ``lib/x``
    means no harm, one that packs ``x -> /etc`` and then ``x/passwd`` does.

    Raises:
        EffectFailed: the link is absolute or climbs out of the layer.
    """
    if target[:1] == b"/":
        raise EffectFailed(f"layer entry {shown(name)} goes through a symbolic link to {shown(target)}: refused")
    parts = directory.split(b"/") if directory else []
    for part in target.split(b"/"):
        if part == b"..":
            if not parts:
                raise EffectFailed(f"layer entry {shown(name)} climbs out through a symbolic link: refused")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def keeps_attribute(attribute: bytes, value: bytes, name: bytes) -> bool:
    """Say whether an extended attribute is set on the entry *name*: file capabilities and ``user.*`` are.

    Raises:
        EffectFailed: it speaks to the overlay file system, or is too large.
    """
    if attribute.startswith((b"trusted.overlay.", b"user.overlay.")):
        text = shown(attribute)
        raise EffectFailed(f"layer entry {shown(name)} carries {text}, which would steer the overlay mount: refused")
    if len(value) > XATTR_BYTES_MAX or len(attribute) > NAME_BYTES_MAX or b"\0" in attribute:
        raise EffectFailed(f"layer entry {shown(name)}: extended attribute {shown(attribute)} is too large")
    return attribute == b"security.capability" or attribute.startswith(b"user.")


def check_device(major: int, minor: int, name: bytes) -> None:
    """Check the numbers of a device node.

    Raises:
        EffectFailed: they are out of range, or are those of an overlay whiteout in disguise.
    """
    if (major, minor) == (0, 0):
        raise EffectFailed(f"layer entry {shown(name)} is device 0:0, a whiteout in disguise: refused")
    if not (0 <= major <= DEVICE_MAJOR_MAX and 0 <= minor <= DEVICE_MINOR_MAX):
        raise EffectFailed(f"layer entry {shown(name)}: device {major}:{minor} is out of range")


class Limits:
    """How large a layer may become, and the running count. All limits are inclusive.

    The ratio matters only beyond ``ratio_from_bytes``: small layers of zeros are harmless and common.
    """

    __slots__ = ("bytes_max", "entries", "entries_max", "ratio_from_bytes", "ratio_max")

    def __init__(
        self,
        *,
        bytes_max: int = 64 << 30,
        entries_max: int = 4_000_000,
        ratio_max: int = 200,
        ratio_from_bytes: int = 256 << 20,
    ) -> None:
        self.bytes_max = bytes_max
        self.entries_max = entries_max
        self.ratio_max = ratio_max
        self.ratio_from_bytes = ratio_from_bytes
        self.entries = 0

    def count(self, name: bytes) -> None:
        """Count one entry.

        Raises:
            Exhausted: there are too many.
        """
        self.entries += 1
        if self.entries > self.entries_max:
            raise Exhausted(f"layer has more than {self.entries_max} entries, at {shown(name)}")

    def stream_bytes_max(self, blob_bytes: int) -> int:
        """Return how many bytes a blob of this size may decompress to."""
        return min(self.bytes_max, max(self.ratio_from_bytes, self.ratio_max * blob_bytes))

    def check_stream(self, stream_bytes: int, blob_bytes: int) -> None:
        """Check the size of the decompressed stream so far against the blob it came from.

        Raises:
            Exhausted: it is too large, or looks like a decompression bomb.
        """
        limit = self.stream_bytes_max(blob_bytes)
        if stream_bytes > limit:
            raise Exhausted(
                f"layer blob of {blob_bytes} bytes decompresses to more than {limit} bytes: "
                f"refused as a decompression bomb (limits: {self.bytes_max} bytes, {self.ratio_max} times the blob)"
            )
