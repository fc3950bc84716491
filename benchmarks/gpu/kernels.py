"""Small kernels over the words of the CUDA backend, for what is measured of the GPU itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastbp.backends.cuda.language import (
    as_pointer,
    barrier,
    block,
    fill,
    grid_barrier,
    outer_product,
    registers,
    thread,
    threads,
)

__all__ = ["ADDED_FLOPS", "BLOCK_BARRIERS", "GRID_BARRIERS", "MULTIPLY_ADD", "SmallKernel", "empty"]

THREADS = 256
SIDE = 8  # of the square of sums that a thread has
TURNS = 4  # outer products of one round of the loop
ADDED_FLOPS = 2 * SIDE * SIDE * TURNS  # of one thread in one round


def make_empty(parameters: int, real: Any) -> Callable[..., None]:
    """Nothing, with some parameters."""

    def take_1(a):
        pass

    def take_4(a, b, c, d):
        pass

    def take_16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):
        pass

    return {1: take_1, 4: take_4, 16: take_16}[parameters]


def make_multiply_add(real: Any) -> Callable[..., None]:
    """Independent chains of fused multiply-adds in registers, `rounds` times."""
    side, count = SIDE, SIDE * SIDE

    def multiply_add(address, rounds):
        sums = registers(count, real)
        left = registers(side, real)
        right = registers(side, real)
        source = as_pointer(address, real)
        fill(sums, 0, source[0], count)
        fill(left, 0, source[1], side)
        fill(right, 0, source[2], side)
        for _ in range(rounds):
            outer_product(sums, left, 0, 1, right, side, side)
            outer_product(sums, left, 0, 1, right, side, side)
            outer_product(sums, left, 0, 1, right, side, side)
            outer_product(sums, left, 0, 1, right, side, side)
        total = sums[0]
        for i in range(1, count):
            total = total + sums[i]
        source[3 + block() * threads() + thread()] = total

    return multiply_add


def make_grid_barriers(integer: Any) -> Callable[..., None]:
    """Some barriers of the whole grid, which are counted at an address."""

    def grid_barriers(count, address):
        counter = as_pointer(address, integer)
        for _ in range(count):
            grid_barrier(counter)

    return grid_barriers


def make_block_barriers(real: Any) -> Callable[..., None]:
    """Some barriers of each block."""

    def block_barriers(count, address):
        for _ in range(count):
            barrier()

    return block_barriers


@dataclass(frozen=True)
class SmallKernel:
    """A kernel that a device can load.

    Attributes
    ----------
    symbol : str
    factory : callable
        Makes the function, for the type of its numbers.
    blocks : int
        How many blocks a multiprocessor is to hold.
    dtype : str
        Of its numbers.
    """

    symbol: str
    factory: Callable[[Any], Callable[..., None]]
    blocks: int = 1
    dtype: str = "float32"

    def build(self, real: Any, integer: Any, wide: Any) -> Callable[..., None]:
        """The Python function, for number types of a compiler or of NumPy."""
        return self.factory(real)

    def code(self, compute_capability: tuple[int, int]) -> bytes:
        """The machine code for devices of a compute capability."""
        from fastbp.backends.cuda.compiler import compile_cubin, number_type

        function = self.factory(number_type(self.dtype))
        major, minor = compute_capability
        parameters = len(inspect.signature(function).parameters)
        code, symbol = compile_cubin(
            function,
            parameters,
            f"sm_{major}{minor}",
            THREADS,
            self.blocks,
            name=self.symbol,
        )
        assert symbol == self.symbol
        return bytes(code)


@functools.cache
def empty(parameters: int) -> SmallKernel:
    """A kernel that does nothing, with 1, 4 or 16 parameters."""
    return SmallKernel(f"empty_{parameters}", functools.partial(make_empty, parameters))


MULTIPLY_ADD = SmallKernel("multiply_add", make_multiply_add, blocks=2)
GRID_BARRIERS = SmallKernel("grid_barriers", make_grid_barriers, dtype="int64")
BLOCK_BARRIERS = SmallKernel("block_barriers", make_block_barriers)
