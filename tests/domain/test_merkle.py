"""The Merkle tree, against the definitions of RFC 9162 written down as recursions."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from ocid.domain import merkle
from ocid.domain.merkle import Frontier

LEAVES = [sha256(b"\0" + bytes([number])).digest() for number in range(256)] * 3


def mth(leaves: list[bytes]) -> bytes:
    """MTH of section 2.1.1, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + mth(leaves[:split]) + mth(leaves[split:])).digest()


def subtree(level: int, index: int) -> bytes:
    return mth(LEAVES[index << level : index + 1 << level])


@pytest.mark.parametrize(
    ("size", "root"),
    [  # the test vectors that implementations of certificate transparency share
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_known_roots(size: int, root: str) -> None:
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [sha256(b"\0" + bytes.fromhex(each)).digest() for each in inputs[:size]]
    assert merkle.root_of(leaves).hex() == root


def test_a_growing_tree_has_the_root_of_the_definition_at_every_size() -> None:
    frontier = Frontier()
    for size in range(600):
        assert frontier.size == size
        assert frontier.root() == mth(LEAVES[:size])
        assert Frontier(size, frontier.hashes()).root() == frontier.root()
        assert merkle.frontier_at(size, subtree).hashes() == frontier.hashes()
        nodes = frontier.append(LEAVES[size])
        wanted = [(8, size >> 8)] if size % 256 == 255 else []
        assert [(node.level, node.index) for node in nodes] == wanted
        assert all(node.hash == subtree(node.level, node.index) for node in nodes)


def test_nodes_of_all_kept_levels_are_told() -> None:
    frontier = Frontier((1 << 16) - 1, [bytes([bit]) * 32 for bit in range(16)])
    assert [(node.level, node.index) for node in frontier.append(LEAVES[0])] == [(8, 255), (16, 0)]


@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, subtree)
    root = mth(LEAVES[:size])
    assert merkle.inclusion_root(LEAVES[index], index, size, proof) == root
    assert merkle.inclusion_root(bytes(32), index, size, proof) != root
    other = data.draw(st.integers(0, size + 5).filter(lambda other: other != index))
    if other >= size or LEAVES[other] != LEAVES[index]:
        assert merkle.inclusion_root(LEAVES[index], other, size, proof) != root
    assert merkle.inclusion_root(LEAVES[index], index, size, [*proof, bytes(32)]) is None
    if proof:
        assert merkle.inclusion_root(LEAVES[index], index, size, proof[:-1]) is None
        spoilt = data.draw(st.integers(0, len(proof) - 1))
        forged = [*proof[:spoilt], bytes(32), *proof[spoilt + 1 :]]
        assert merkle.inclusion_root(LEAVES[index], index, size, forged) != root
        short = [*proof[:spoilt], proof[spoilt][:-1], *proof[spoilt + 1 :]]
        assert merkle.inclusion_root(LEAVES[index], index, size, short) is None


@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    second = data.draw(st.integers(0, 600))
    first = data.draw(st.integers(0, second))
    proof = merkle.consistency_proof(first, second, subtree)
    roots = mth(LEAVES[:first]), mth(LEAVES[:second])
    assert merkle.consistent(first, second, *roots, proof)
    assert not merkle.consistent(first, second, bytes(32), roots[1], proof)
    assert not merkle.consistent(first, second, roots[0], bytes(32), proof) or first == 0
    assert not merkle.consistent(first, second, *roots, [*proof, bytes(32)])
    if first < second:
        assert not merkle.consistent(second, first, *roots[::-1], proof)
    if proof:
        spoilt = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.consistent(first, second, *roots, [*proof[:spoilt], bytes(32), *proof[spoilt + 1 :]])
        assert not merkle.consistent(first, second, *roots, proof[:-1])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 299))
def test_a_tree_whose_past_was_changed_is_not_consistent(first: int, more: int, changed: int) -> None:
    changed %= first
    second = first + more
    leaves = [*LEAVES[:changed], bytes(32), *LEAVES[changed + 1 : second]]

    def forged(level: int, index: int) -> bytes:
        return mth(leaves[index << level : index + 1 << level])

    proof = merkle.consistency_proof(first, second, forged)
    assert not merkle.consistent(first, second, mth(LEAVES[:first]), mth(leaves), proof)
