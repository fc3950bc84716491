"""The masks of dropout: for every row, layer and column a random word, without memory.

A word is a function of the seed, the epoch, the layer, the row's position in the epoch and the
column, so any thread, a GPU, or a run that was interrupted finds the same mask. Keys of an epoch
come from Philox, and a hash of 32 bits does the rest. As in `fastbp.shuffle` everything is plain
integer arithmetic that runs in the interpreter and compiled: products of two 32-bit words may wrap
in a 64-bit integer, and only their lowest 32 bits are used.

Sources: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011 (Philox);
Wellons, Prospecting for hash functions, 2018 (the two multipliers and three shifts of `mix`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastbp.shuffle import philox

__all__ = ["KEYS", "epoch_keys", "mask_word", "mix", "row_key", "threshold_of"]

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: multiples of it are far from one another
KEYS = 4


def epoch_keys(seed: int, epoch: int) -> NDArray[np.int64]:
    """The keys of one epoch's masks: `KEYS` words of 32 bits."""
    seed %= 2**64
    counter = (0, epoch & MASK, (epoch >> 32) & MASK, 0x44524F50)
    return np.array(philox(counter, (seed & MASK, seed >> 32)), dtype=np.int64)


def threshold_of(rate: float) -> int:
    """A value is dropped where its word is below this word: a share of `rate`, to 2**-32."""
    return min(round(rate * 2**32), MASK)


def mix(word):
    """A bijection of 32-bit words each bit of which depends on all bits."""
    word ^= word >> 16
    word = (word * 0x7FEB352D) & MASK
    word ^= word >> 15
    word = (word * 0x846CA68B) & MASK
    return word ^ (word >> 16)


def row_key(position, layer, keys):
    """The word that keys the mask of a row, by its position in the epoch, for a layer."""
    word = mix((position & MASK) ^ keys[0])
    word = mix(word ^ ((position >> 32) & MASK) ^ keys[1])
    return mix((word + layer * GOLDEN) & MASK) ^ keys[2]


def mask_word(column, key):
    """The random word of a column, for a row's key."""
    return mix(((column * GOLDEN) & MASK) ^ key)
