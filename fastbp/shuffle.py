"""The order of the rows in an epoch, one row at a time and without memory.

`permute` maps a position of the epoch to a row by a keyed bijection, so every position can be
computed alone: by any thread, in any order, on a GPU, or after a restart. Keys come from the
counter-based generator Philox-4x32-10.

Everything here is law-like: plain integer arithmetic, so that the same lines run in the interpreter
and compiled. Products of two 32-bit words wrap in a compiled 64-bit integer; that changes no bit,
because a result is used only in its lowest 32 bits after at most one shift by 32.

Sources: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011 (Philox);
Mitchell, Stokes, Frank and Holmes, Bandwidth-optimal random shuffling for GPUs, 2022 (a bijection
of keyed rounds instead of a sort; 24 rounds); Black and Rogaway, Ciphers with arbitrary finite
domains, 2002 (walking the cycle until it is inside the range).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDS", "encipher", "permute", "philox", "round_keys"]

MASK = 0xFFFFFFFF
ROUNDS = 24
SMALLEST_BITS = 6  # below this the halves are too narrow to mix well


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox-4x32-10: four random 32-bit words for a counter of four words and a key of two."""
    word0, word1, word2, word3 = counter
    key0, key1 = key
    for _ in range(10):
        product0 = 0xD2511F53 * word0
        product1 = 0xCD9E8D57 * word2
        word0, word1, word2, word3 = (
            (product1 >> 32) ^ word1 ^ key0,
            product1 & MASK,
            (product0 >> 32) ^ word3 ^ key1,
            product0 & MASK,
        )
        key0 = (key0 + 0x9E3779B9) & MASK
        key1 = (key1 + 0xBB67AE85) & MASK
    return word0, word1, word2, word3


def round_keys(seed: int, epoch: int) -> NDArray[np.int64]:
    """The keys of one epoch's permutation: `ROUNDS` words of 32 bits."""
    seed %= 2**64
    words: list[int] = []
    for block in range(ROUNDS // 4):
        counter = (block, epoch & MASK, (epoch >> 32) & MASK, 0x53485546)
        words.extend(philox(counter, (seed & MASK, seed >> 32)))
    return np.array(words, dtype=np.int64)


def index_bits(rows):
    """Width of the domain that `permute` works in, at least enough for `rows` rows."""
    bits = SMALLEST_BITS
    while (1 << bits) < rows:
        bits += 1
    return bits


def encipher(index, bits, keys):
    """A bijection of range(2**bits): an alternating Feistel network.

    Each round changes one half of the bits by a keyed hash of the other, so it is a bijection for
    any hash.
    """
    low_bits = bits >> 1
    high_bits = bits - low_bits
    low_mask = (1 << low_bits) - 1
    high_mask = (1 << high_bits) - 1
    high = index >> low_bits
    low = index & low_mask
    for i in range(0, ROUNDS, 2):
        product = ((low ^ keys[i]) & MASK) * 0xD2511F53
        high ^= ((product >> 32) ^ product) & high_mask
        product = ((high ^ keys[i + 1]) & MASK) * 0xCD9E8D57
        low ^= ((product >> 32) ^ product) & low_mask
    return (high << low_bits) | low


def permute(position, rows, bits, keys):
    """The row at a position of the epoch: a bijection of range(rows).

    What `encipher` puts beyond the last row goes through it again.
    """
    index, is_outside = position, True
    while is_outside:
        index = encipher(index, bits, keys)
        is_outside = index >= rows
    return index
