"""Sums over the threads of a block, in a fixed order.

Lane i of a warp adds what lane i xor m has, for m = 16, 8, 4, 2, 1, so that all lanes end with the
same sum; then the first warp does so with the sums of the warps.
"""

from __future__ import annotations

from fastbp.backends.cuda.language import barrier, quotient, remainder, shuffle_xor, thread
from fastbp.backends.cuda.tuning import THREADS

__all__ = ["WARP", "block_sum", "group_largest", "group_sum"]

WARP = 32
WARPS = THREADS // WARP


def group_sum(value, lanes):
    """The sum over each group of `lanes` threads of a warp, a power of two, in all of them."""
    mask = lanes >> 1
    while mask > 0:
        value = value + shuffle_xor(value, mask)
        mask = mask >> 1
    return value


def group_largest(value, lanes):
    """The largest over each group of `lanes` threads of a warp; a NaN may be lost."""
    mask = lanes >> 1
    while mask > 0:
        other = shuffle_xor(value, mask)
        value = other if other > value else value
        mask = mask >> 1
    return value


def block_sum(value, memory):
    """The sum over all threads of the block, in all of them; `memory` is shared, for WARPS numbers.

    All threads of the block call it; the memory may be used again afterwards.
    """
    t = thread()
    total = group_sum(value, WARP)
    if remainder(t, WARP) == 0:
        memory[quotient(t, WARP)] = total
    barrier()
    total = group_sum(memory[remainder(t, WARPS)], WARPS)
    barrier()
    return total
