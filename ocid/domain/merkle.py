"""The Merkle tree over the log's records: what a checkpoint signs, and what proofs are made from. Pure.

Leaf *i* is record *i + 1*, and its leaf hash is the hash that the record carries (``ocid.events.codec``): a tree costs
one more hash per record. Proofs need hashes of whole subtrees: those of 256 leaves, of 256 of these, and so on are kept
when they are complete (levels 8, 16, …), and everything between is made from at most 256 of them.

Source: RFC 9162 sections 2.1.1 (hashes), 2.1.3 (inclusion), 2.1.4 (consistency).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final

import msgspec

HASH_BYTES: Final = 32
KEPT_LEVELS: Final = 8  # every eighth level is kept
EMPTY_ROOT: Final = sha256(b"").digest()

Subtree = Callable[[int, int], bytes]  # level and index there: the hash of leaves index << level up to the next one's


class Node(msgspec.Struct, frozen=True):
    """The hash of a complete subtree of ``1 << level`` leaves, the *index*-th of its level."""

    level: int
    index: int
    hash: bytes


def parent(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node. RFC 9162 section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: the complete subtrees that make it up, largest first."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """Begin with *hashes*, one for each bit that is set in *size*, the highest first."""
        self.size = size
        self._hashes = list(hashes)
        assert len(self._hashes) == size.bit_count(), f"{len(self._hashes)} hashes for a tree of {size} leaves"

    def copy(self) -> Frontier:
        """Return another one that grows by itself."""
        return Frontier(self.size, self._hashes)

    def append(self, leaf: bytes) -> Sequence[Node]:
        """Take one leaf hash more, and return the nodes of kept levels that it completes."""
        size = self.size
        hashes = self._hashes
        self.size = size + 1
        if not size & 1:  # half of all leaves complete nothing
            hashes.append(leaf)
            return ()
        level, done = 0, []
        while size & 1:
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            size >>= 1
            level += 1
            if not level % KEPT_LEVELS:
                done.append(Node(level, size, leaf))
        hashes.append(leaf)
        return done

    def append_subtree(self, node: bytes) -> Sequence[Node]:
        """Take a complete subtree of ``1 << KEPT_LEVELS`` leaves more, and return the nodes of kept levels."""
        level, index = KEPT_LEVELS, self.size >> KEPT_LEVELS
        assert self.size == index << level, f"a subtree of level {level} cannot follow {self.size} leaves"
        self.size += 1 << level
        done = [Node(level, index, node)]
        while index & 1:
            node = parent(self._hashes.pop(), node)
            index >>= 1
            level += 1
            if not level % KEPT_LEVELS:
                done.append(Node(level, index, node))
        self._hashes.append(node)
        return done

    def hashes(self) -> tuple[bytes, ...]:
        """Return what it takes to go on from here."""
        return tuple(self._hashes)

    def root(self) -> bytes:
        """Return the tree's root. RFC 9162 section 2.1.1."""
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = parent(left, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def subtree_of(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of a complete subtree, ``root_of`` for a power of two of leaf hashes, in half the time."""
    assert len(leaves).bit_count() == 1, f"{len(leaves)} leaves are no complete subtree"
    while len(leaves) > 1:
        pairs = zip(leaves[::2], leaves[1::2], strict=True)
        leaves = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return leaves[0]


def frontier_at(size: int, subtree: Subtree) -> Frontier:
    """Return the right edge of the tree of *size* leaves."""
    hashes, begin = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            hashes.append(subtree(level, begin >> level))
            begin += 1 << level
    return Frontier(size, hashes)


def range_hash(begin: int, end: int, subtree: Subtree) -> bytes:
    """Return MTH(D[begin:end]), where *begin* is where a subtree of at least that size begins."""
    count = end - begin
    assert count > 0
    if count & count - 1 == 0:
        level = count.bit_length() - 1
        return subtree(level, begin >> level)
    split = begin + _split(count)
    return parent(range_hash(begin, split, subtree), range_hash(split, end, subtree))


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the hashes that lead from leaf *index* to the root of the tree of *size* leaves, lowest first.

    RFC 9162 section 2.1.3.1.
    """
    assert 0 <= index < size, f"leaf {index} of a tree of {size}"
    begin, end, path = 0, size, []
    while end - begin > 1:
        split = begin + _split(end - begin)
        if index < split:
            path.append(range_hash(split, end, subtree))
            end = split
        else:
            path.append(range_hash(begin, split, subtree))
            begin = split
    return path[::-1]


def inclusion_root(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that *proof* leads to from the leaf hash, None when it is no proof for such a place.

    RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf
    for each in proof:
        if not last or len(each) != HASH_BYTES:
            return None
        if at & 1 or at == last:
            root = parent(each, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = parent(root, each)
        at, last = at >> 1, last >> 1
    return root if not last else None


def consistency_proof(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """Return the hashes that show that the tree of *first* leaves is how that of *second* began.

    RFC 9162 section 2.1.4.1; empty where nothing needs to be shown.
    """
    assert 0 <= first <= second, f"a tree of {first} leaves and a later one of {second}"
    if first in (0, second):
        return []
    begin, end, path, whole = 0, second, [], True
    while first != end:
        split = begin + _split(end - begin)
        if first <= split:
            path.append(range_hash(split, end, subtree))
            end = split
        else:
            path.append(range_hash(begin, split, subtree))
            begin, whole = split, False
    if not whole:
        path.append(range_hash(begin, end, subtree))
    return path[::-1]


def consistent(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether *proof* shows that the first tree is how the second began. RFC 9162 section 2.1.4.2."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if not 0 < first < second or not proof or any(len(each) != HASH_BYTES for each in proof):
        return False
    path = [first_root, *proof] if first & first - 1 == 0 else list(proof)
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for each in path[1:]:
        if not last:
            return False
        if at & 1 or at == last:
            old, new = parent(each, old), parent(each, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = parent(new, each)
        at, last = at >> 1, last >> 1
    return not last and old == first_root and new == second_root


def _split(count: int) -> int:
    """Return the largest power of two smaller than *count*."""
    return 1 << (count - 1).bit_length() - 1
