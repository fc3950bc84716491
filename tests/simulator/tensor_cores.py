"""Tensor cores of the simulator: rounding to fewer bits, and the products of a warp.

A product of fragments is taken from the registers of 32 threads as the PTX ISA lays them out. All
products are exact; their sum over the depth of one instruction and the sum before are added in
float64 and rounded once to float32. Of a GPU neither the order of that sum nor its rounding is
documented, so results agree with it to some units in the last place of the largest term.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .pointers import Registers

__all__ = ["NUMBERS", "bfloat16_words", "fragments", "multiply_add", "to_bfloat16", "to_tf32"]

NUMBERS = {"mma_tf32": 1, "mma_bf16": 2}  # numbers in a word
GROUPS, MEMBERS = 8, 4
TF32_BITS = np.uint32(0xFFFFE000)
QUIET = np.uint32(0x7FFF)  # the NaN of bfloat16


def to_tf32(values: np.ndarray) -> np.ndarray:
    """The nearest numbers with 10 bits of mantissa, ties away from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x1000)) & TF32_BITS
    return np.where(np.isfinite(values), nearest, bits & TF32_BITS).view(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest numbers with 7 bits of mantissa, ties to even, as 16 bits each."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), QUIET, nearest).astype(np.uint32)


def bfloat16_words(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two numbers in each word, which is passed for a number of float32."""
    words = to_bfloat16(low) | to_bfloat16(high) << np.uint32(16)
    return words.view(np.float32)


def numbers_of(words: np.ndarray, count: int, axis: int) -> np.ndarray:
    """What is in words, one or two along an axis of the result."""
    bits = np.ascontiguousarray(words).view(np.uint32)
    if count == 1:  # the hardware reads no more bits than a tf32 has
        return (bits & TF32_BITS).view(np.float32).astype(np.float64)
    parts = [(bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view("f4")]
    shape = list(words.shape)
    shape[axis] *= 2
    return np.stack(parts, axis=axis + 1).reshape(shape).astype(np.float64)


def fragments(
    machine: Any, word: str, sums: Any, left: Any, right: Any, high: int, wide: int
) -> tuple[Any, ...]:
    """What a thread brings to a product of its warp."""
    machine.require_whole_warp(word)
    given = (sums, 4 * high * wide), (left, 4 * high), (right, 2 * wide)
    if any(type(registers) is not Registers for registers, _ in given):
        raise machine.fault(f"{word} of what are no registers")
    return tuple(registers.part(0, 1, count) for registers, count in given), (high, wide)


def multiply_add(word: str, threads: list[Any]) -> None:
    """Do a word for a warp, of whose threads (sums, left, right) and the shape are given."""
    high, wide = threads[0][1]
    sums, left, right = (np.stack([arrays[n] for arrays, _ in threads]) for n in range(3))
    lanes, numbers = (GROUPS, MEMBERS), NUMBERS[word]
    # Axes: group, member, then what numbers the registers.
    a = left.reshape(*lanes, high, 2, 2).transpose(2, 4, 0, 3, 1).reshape(16 * high, 8)
    b = right.reshape(*lanes, wide, 2).transpose(3, 1, 2, 0).reshape(8, 8 * wide)
    c = sums.reshape(*lanes, high, 2, 2, wide).transpose(2, 3, 0, 5, 1, 4)
    total = numbers_of(a, numbers, 1) @ numbers_of(b, numbers, 0)
    total = total.reshape(high, 2, GROUPS, wide, MEMBERS, 2) + c
    with np.errstate(over="ignore"):
        after = total.transpose(2, 4, 0, 1, 5, 3).reshape(len(threads), -1).astype(np.float32)
    for (arrays, _), values in zip(threads, after, strict=True):
        arrays[0][...] = values
