"""The words in which kernels are written, beside plain Python.

A kernel is a Python function over these words. `compiler` gives each a meaning on the device; in
the interpreter they go to `machine`, whatever a caller has put there, so that the same kernels run
where there is no GPU and no compiler. Nothing is imported here.

A pointer is typed: ``pointer[i]`` reads and writes element i. Addresses are integers. All threads
of a block run a kernel; `thread` and `block` say who one is.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "address_of",
    "as_pointer",
    "barrier",
    "block",
    "blocks",
    "fill",
    "float_bits",
    "fma",
    "grid_barrier",
    "load_vectors",
    "mma_bf16",
    "mma_tf32",
    "offset",
    "outer_product",
    "pack_bf16",
    "quotient",
    "registers",
    "remainder",
    "round_to_tf32",
    "shared_memory",
    "shuffle_xor",
    "store_vectors",
    "thread",
    "threads",
]

machine: Any = None  # what the words mean in the interpreter


def thread() -> int:
    """The number of the calling thread within its block, from 0."""
    number: int = machine.thread()
    return number


def threads() -> int:
    """How many threads a block has."""
    number: int = machine.threads()
    return number


def block() -> int:
    """The number of the calling thread's block within the grid, from 0."""
    number: int = machine.block()
    return number


def blocks() -> int:
    """How many blocks the grid has."""
    number: int = machine.blocks()
    return number


def barrier() -> None:
    """Wait for all threads of the block; what they wrote before is seen after."""
    machine.barrier()


def grid_barrier(counter: Any) -> None:
    """Wait for all threads of the grid, which must have been launched as cooperative.

    The counter is a pointer to an integer in global memory that was zero before the first meeting,
    and that nothing else uses.
    """
    machine.grid_barrier(counter)


def as_pointer(address: int, kind: Any) -> Any:
    """The address, of global memory, as a pointer to numbers of a kind."""
    return machine.as_pointer(address, kind)


def address_of(pointer: Any) -> int:
    """The address of a pointer, which `as_pointer` takes in kernels that reach shared memory so."""
    address: int = machine.address_of(pointer)
    return address


def shared_memory(kind: Any) -> Any:
    """A pointer to the shared memory that the launch asked for."""
    return machine.shared_memory(kind)


def offset(pointer: Any, elements: int) -> Any:
    """The pointer `elements` further on."""
    return machine.offset(pointer, elements)


def load_vectors(target: Any, index: int, source: Any, place: int, apart: int, count: int) -> None:
    """Fill registers from `index` on with `count` vectors of 16 bytes, each in one load.

    Vector j comes from element ``place + j * apart``, a multiple of 16 bytes. `index` and `count`
    are constants.
    """
    machine.load_vectors(target, index, source, place, apart, count)


def store_vectors(
    target: Any,
    place: int,
    apart: int,
    row_apart: int,
    source: Any,
    index: int,
    rows: int,
    count: int,
) -> None:
    """Store registers from `index` on as `rows` times `count` vectors of 16 bytes.

    Vector j of row i goes to element ``place + i * row_apart + j * apart``, a multiple of 16 bytes.
    `index`, `rows` and `count` are constants.
    """
    machine.store_vectors(target, place, apart, row_apart, source, index, rows, count)


def fill(target: Any, index: int, value: Any, count: int) -> None:
    """Set elements from `index` on to a value; `count` is a constant."""
    machine.fill(target, index, value, count)


def quotient(a: int, b: int) -> int:
    """a // b of integers from 0 to 2**31 - 1, which is a fraction of the work of one of 64 bits."""
    result: int = machine.quotient(a, b)
    return result


def remainder(a: int, b: int) -> int:
    """a % b of integers from 0 to 2**31 - 1."""
    result: int = machine.remainder(a, b)
    return result


def registers(count: int, kind: Any) -> Any:
    """An array of the thread's own, not initialised.

    It lies in registers if every index is known once loops of constant length are unrolled. To be
    called before anything else in a function; `count` is a constant.
    """
    return machine.registers(count, kind)


def float_bits(x: Any) -> int:
    """The bits of a number as an integer, negative where the sign bit is set."""
    result: int = machine.float_bits(x)
    return result


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return machine.fma(a, b, c)


def outer_product(
    sums: Any, left: Any, first: int, stride: int, right: Any, rows: int, columns: int
) -> None:
    """sums[i, j] += left[first + i * stride] * right[j], rounded once; all three are registers.

    `sums` is (rows, columns) row by row; `rows` and `columns` are constants.
    """
    machine.outer_product(sums, left, first, stride, right, rows, columns)


def shuffle_xor(value: Any, mask: int) -> Any:
    """The value of the thread whose number differs from the own in the bits of `mask` (below 32).

    All 32 threads of a warp take part.
    """
    return machine.shuffle_xor(value, mask)


# Tensor cores. Their factors are words of 32 bits in registers of float32: a number of tf32, which
# is float32 without its last 13 bits, or two of bfloat16, which is float32 without its last 16.


def round_to_tf32(target: Any, index: int, source: Any, first: int, step: int, count: int) -> None:
    """Round numbers to the nearest tf32, ties away from zero.

    Register index + i of `target` gets register first + i * step of `source`; all but the registers
    are constants.
    """
    machine.round_to_tf32(target, index, source, first, step, count)


def pack_bf16(
    target: Any, index: int, source: Any, low: int, high: int, step: int, count: int
) -> None:
    """Round pairs of numbers to the nearest bfloat16, ties to even, and put each pair in a word.

    Register index + i of `target` gets registers low + i * step and, in its upper half,
    high + i * step of `source`; all but the registers are constants.
    """
    machine.pack_bf16(target, index, source, low, high, step, count)


def mma_tf32(sums: Any, left: Any, right: Any, high: int, wide: int) -> None:
    """sums += left @ right of a warp: `high` times `wide` products of 16 x 8 and 8 x 8 words.

    All 32 threads of a warp take part. For h, d and c of 0 and 1, thread 4 g + t has

    - row g + 8 h, word t + 4 d of left fragment i in ``left[4 * i + 2 * d + h]``;
    - word t + 4 d, column g of right fragment j in ``right[2 * j + d]``;
    - row g + 8 h, column 2 t + c of their sums in ``sums[(4 * i + 2 * h + c) * wide + j]``.

    `high` and `wide` are constants. Products are exact; in which order they are added up in
    float32, and how that is rounded, is left to the hardware.
    """
    machine.mma_tf32(sums, left, right, high, wide)


def mma_bf16(sums: Any, left: Any, right: Any, high: int, wide: int) -> None:
    """As `mma_tf32`, with words of two numbers each, and so twice the depth."""
    machine.mma_bf16(sums, left, right, high, wide)
