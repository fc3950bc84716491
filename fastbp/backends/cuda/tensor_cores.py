"""The matrix product of a block of threads on tensor cores, whose factors have fewer bits.

The factors are rounded on their way to shared memory, where they lie in words of 32 bits: a number
of tf32, or two of bfloat16 that follow each other in the depth. A part of the depth is 16 words, of
either kind. Parts alternate between two buffers as in `product`, and the sums are of float32.

A warp has 32 columns of the tile and 16, 32 or 64 rows; warps for which there are none left only
copy. Thread 4 g + t of a warp has *group* g and *member* t. Of what one instruction multiplies (PTX
ISA, matrix fragments for mma.m16n8k8 with tf32 and for mma.m16n8k16 with bf16, which are the same
if a pair is a word) it holds

- of 16 rows x 8 words of the left factor: rows g and g + 8, words t and t + 4;
- of 8 words x 8 columns of the right factor: words t and t + 4, column g;
- of 16 x 8 sums: rows g and g + 8, columns 2 t and 2 t + 1.

A sum does not depend on which number of the depth is called which word, if both factors agree, nor
on which row of the tile is which of a fragment, if the sums are written back alike. So:

- Words t and t + 4 of the instruction of step s (0 or 1) are words 4 t + 2 s and 4 t + 2 s + 1.
- Column n of fragment j is column 4 n + j of a warp's 32.
- Rows g and g + 8 of fragment i are rows 16 i + g and 16 i + 8 + g of a tile whose left factor lies
  row by row. Where its rows lie side by side, they are 32 I + 4 g + 2 e and the one after it, with
  i = 2 I + e.

Shared memory has one vector for each step, fragment and thread, of four words that the instruction
wants in registers that follow each other: two rows by two words of the left factor, or two words of
each of two columns, of fragments 2 e and 2 e + 1. A thread that copies has two such vectors. Among
the 32 of a step and fragment, that of group g and member t is number 8 t + (g ^ 2 t). So neither
the eight threads that read at a time, of two groups, nor those that write, of one member or of two
groups, meet on a bank.
"""

from __future__ import annotations

from typing import Any

from fastbp.backends.cuda import product
from fastbp.backends.cuda.intrinsics import in_turn
from fastbp.backends.cuda.language import (
    fill,
    load_vectors,
    mma_bf16,
    mma_tf32,
    pack_bf16,
    quotient,
    registers,
    remainder,
    round_to_tf32,
    store_vectors,
    thread,
)
from fastbp.backends.cuda.product import pipelined
from fastbp.backends.cuda.tuning import THREADS, TileShape

__all__ = ["multiply_rows", "multiply_transposed"]

PART = 16  # words of the depth that are in shared memory at a time
VECTOR = 4  # numbers, or words, in 16 bytes
WARP, WARPS = 32, THREADS // 32
ROWS, COLUMNS = 16, 32  # of a fragment of the left factor; of a warp's share of a tile
FRAGMENTS = COLUMNS // 8  # across a warp's columns
FRAGMENT_WORDS = WARP * VECTOR  # of one fragment of the left factor, or of two of the right one
STEP_WORDS = PART // 2  # of a row or column: those of one step

NUMBERS = {"tf32": 1, "bf16": 2}  # in a word
MULTIPLY_ADD = {"tf32": mma_tf32, "bf16": mma_bf16}


def fragments_down(shape: TileShape) -> int:
    """Fragments of 16 rows that a warp has below each other."""
    high = max(shape.rows * shape.columns // (WARPS * ROWS * COLUMNS), 1)
    if shape.rows % (ROWS * high) or shape.columns % COLUMNS or high not in {1, 2, 4}:
        raise ValueError(f"no warps of 16, 32 or 64 rows in {shape.rows} x {shape.columns}")
    return high


def only_working(shape: TileShape, function: Any) -> Any:
    """A function of four arguments, called by the warps that have a share of the tile."""
    working = shape.rows // (ROWS * fragments_down(shape)) * (shape.columns // COLUMNS)
    if working == WARPS:
        return function

    def call(a, b, c, d):
        if thread() < working * WARP:
            function(a, b, c, d)

    return call


def warp_place(shape: TileShape) -> Any:
    """Make a function that tells a thread its first fragment, first column, group and member."""
    across, high = shape.columns // COLUMNS, fragments_down(shape)

    def place():
        warp, lane = quotient(thread(), WARP), remainder(thread(), WARP)
        fragment, column = quotient(warp, across) * high, remainder(warp, across) * COLUMNS
        return fragment, column, quotient(lane, 4), remainder(lane, 4)

    return place


def vector_place(group, member):
    """Where the vector of a thread lies among those of its warp."""
    return (8 * member + (group ^ (2 * member))) * VECTOR


def to_words(precision: str, n: int, order: str) -> Any:
    """Make a function that rounds what a thread copies to its vector n, 0 or 1.

    What is copied is two rows of four words (`order` ``"rows"``); or two words of four columns, to
    be rows of the left factor (``"left"``) or columns of the right one (``"right"``). The first two
    words of the vector come from registers low and low + step, the others from high and
    high + step; the other number of a word of bfloat16 lies `beside` its first one.
    """
    if precision == "tf32":
        low, high, step = (2 * n, 2 * n + 4, 1) if order == "left" else (2 * n, 2 * n + 1, 4)

        def round_vector(words, values):
            round_to_tf32(words, 0, values, low, step, 2)
            round_to_tf32(words, 2, values, high, step, 2)

        return round_vector

    low, high, step, beside = {
        "rows": (4 * n, 4 * n + 2, 8, 1),
        "left": (2 * n, 2 * n + 8, 1, 4),
        "right": (2 * n, 2 * n + 1, 8, 4),
    }[order]
    low_beside, high_beside = low + beside, high + beside

    def pack_vector(words, values):
        pack_bf16(words, 0, values, low, low_beside, step, 2)
        pack_bf16(words, 2, values, high, high_beside, step, 2)

    return pack_vector


def copy_panel(real: Any, columns: int, precision: str, order: str) -> tuple[Any, Any, int]:
    """Make ``fetch(values, (source, width, there, end), begin)`` and ``keep(memory, at, values)``.

    As `product.fetch_panel`; a thread copies two words of four columns.
    """
    numbers, across = NUMBERS[precision], columns // VECTOR
    total, apart = PART // 2 * across, STEP_WORDS * columns
    first_vector, second_vector = (to_words(precision, n, order) for n in (0, 1))

    def fetch_vector(n):
        at = n * VECTOR

        def fetch(values, matrix, begin):
            source, width, there, end = matrix
            row = begin + quotient(thread(), across) * 2 * numbers + n
            column = remainder(thread(), across) * VECTOR
            fill(values, at, real(0.0), VECTOR)
            if row < end and column < there and thread() < total:
                load_vectors(values, at, source, row * width + column, 0, 1)

        return fetch

    def keep(memory, at, values):
        words = registers(VECTOR, real)
        pair, vector = quotient(thread(), across), remainder(thread(), across)
        if thread() < total:
            place = at + remainder(pair, 2) * apart + quotient(vector, 8) * 2 * FRAGMENT_WORDS
            place += vector_place(remainder(vector, 8), quotient(pair, 2))
            first_vector(words, values)
            store_vectors(memory, place, 0, 0, words, 0, 1, 1)
            second_vector(words, values)
            store_vectors(memory, place + FRAGMENT_WORDS, 0, 0, words, 0, 1, 1)

    held = 2 * numbers
    return in_turn(fetch_vector, held), keep, held * VECTOR


def copy_rows(real: Any, shape: TileShape, precision: str) -> tuple[Any, Any, int]:
    """Make ``fetch(values, (first, last, source, rows high, padded), begin)`` and ``keep``.

    As `product.fetch_rows`; a thread copies four words of two rows.
    """
    numbers, panel = NUMBERS[precision], shape.columns
    total, apart = 2 * shape.rows, STEP_WORDS * shape.rows
    first_vector, second_vector = (to_words(precision, n, "rows") for n in (0, 1))

    def fetch_vector(n):
        below, beside, at = n // numbers * 8, n % numbers, n * VECTOR

        def fetch(values, matrix, begin):
            first, last, source, rows_high, padded = matrix
            before = quotient(begin, panel) * panel
            width = min(panel, padded - before)
            fragment, lane = quotient(thread(), WARP), remainder(thread(), WARP)
            row = first + fragment * ROWS + quotient(lane, 4) + below
            column = begin - before + (remainder(lane, 4) * numbers + beside) * VECTOR
            fill(values, at, real(0.0), VECTOR)
            if row < last and column < width and thread() < total:
                place = before * rows_high + row * width + column
                load_vectors(values, at, source, place, 0, 1)

        return fetch

    def keep(memory, at, values):
        words = registers(VECTOR, real)
        fragment, lane = quotient(thread(), WARP), remainder(thread(), WARP)
        if thread() < total:
            place = at + fragment * FRAGMENT_WORDS
            place += vector_place(quotient(lane, 4), remainder(lane, 4))
            first_vector(words, values)
            store_vectors(memory, place, 0, 0, words, 0, 1, 1)
            second_vector(words, values)
            store_vectors(memory, place + apart, 0, 0, words, 0, 1, 1)

    held = 2 * numbers
    return in_turn(fetch_vector, held), keep, held * VECTOR


def add_products(real: Any, shape: TileShape, precision: str) -> Any:
    """Make ``add(sums, memory, left_at, right_at)``, which adds a part of the depth."""
    high, place_of = fragments_down(shape), warp_place(shape)
    multiply_add = MULTIPLY_ADD[precision]
    left_apart, right_apart = STEP_WORDS * shape.rows, STEP_WORDS * shape.columns
    vectors = FRAGMENTS // 2
    left_held, right_held = VECTOR * high, VECTOR * vectors

    def add(sums, memory, left_at, right_at):
        left, right = registers(left_held, real), registers(right_held, real)
        fragment, column, group, member = place_of()
        lane = vector_place(group, member)
        left_place = left_at + fragment * FRAGMENT_WORDS + lane
        right_place = right_at + quotient(column, 16) * FRAGMENT_WORDS + lane
        load_vectors(left, 0, memory, left_place, FRAGMENT_WORDS, high)
        load_vectors(right, 0, memory, right_place, FRAGMENT_WORDS, vectors)
        multiply_add(sums, left, right, high, FRAGMENTS)
        load_vectors(left, 0, memory, left_place + left_apart, FRAGMENT_WORDS, high)
        load_vectors(right, 0, memory, right_place + right_apart, FRAGMENT_WORDS, vectors)
        multiply_add(sums, left, right, high, FRAGMENTS)

    return only_working(shape, add)


def spill(shape: TileShape, transposed: bool) -> Any:
    """Make a function that writes the sums to a tile in shared memory, rows `stride` apart.

    Of each of its rows a thread has eight neighbours.
    """
    high, place_of = fragments_down(shape), warp_place(shape)
    wide = 2 * FRAGMENTS
    rows, fours = 2 * high, max(high // 2, 1)
    rows_of_four = min(rows, 4)

    def write_rows(tile, stride, sums, nothing):
        fragment, column, group, member = place_of()
        place = (fragment * ROWS + group) * stride + column + wide * member
        store_vectors(tile, place, VECTOR, 8 * stride, sums, 0, rows, 2)

    def write_four(n):
        before, first = 32 * n, 4 * wide * n

        def write(tile, sums, place):
            start, stride = place
            begin = start + before * stride
            store_vectors(tile, begin, VECTOR, stride, sums, first, rows_of_four, 2)

        return write

    write_fours = in_turn(write_four, fours)

    def write_columns(tile, stride, sums, nothing):
        fragment, column, group, member = place_of()
        row = quotient(fragment, 2) * 32 + 4 * group + remainder(fragment, 2) * 2
        write_fours(tile, sums, (row * stride + column + wide * member, stride))

    return only_working(shape, write_columns if transposed else write_rows)


def product_of(
    real: Any, shape: TileShape, precision: str, copy_left: tuple[Any, Any, int], transposed: bool
) -> Any:
    """Make ``run(tile, stride, left, right, first, last, memory)`` over a depth from first to last.

    `left` and `right` are what the functions that copy them take.
    """
    add, spill_of = add_products(real, shape, precision), spill(shape, transposed)
    count, left_size = 4 * FRAGMENTS * fragments_down(shape), PART * shape.rows

    def add_part(sums, memory, at):
        add(sums, memory, at, at + left_size)

    def write(tile, stride, sums):
        spill_of(tile, stride, sums, 0)

    return pipelined(
        real,
        copy_left,
        copy_panel(real, shape.columns, precision, "right"),
        add_part,
        write,
        count,
        (left_size, left_size + PART * shape.columns),
        PART * NUMBERS[precision],
    )


def multiply_rows(real: Any, shape: TileShape, near: bool, precision: str) -> Any:
    """`product.multiply_rows` in a precision; that of ``"float32"`` is without tensor cores."""
    if precision == "float32":
        return product.multiply_rows(real, shape, near)
    if near:
        raise ValueError("near: tensor cores take no rows that are kept in shared memory")
    copy_left = copy_rows(real, shape, precision)
    run = product_of(real, shape, precision, copy_left, False)

    def multiply(tile, stride, left, right, depth, memory):
        weight, width = right
        run(tile, stride, left, (weight, width, width, depth), 0, depth, memory)

    return multiply


def multiply_transposed(real: Any, shape: TileShape, precision: str) -> Any:
    """`product.multiply_transposed` in a precision, as above."""
    if precision == "float32":
        return product.multiply_transposed(real, shape)
    if shape.rows % COLUMNS:
        raise ValueError(f"rows: expected a multiple of {COLUMNS}; got {shape.rows}")
    copy_left = copy_panel(real, shape.rows, precision, "left")
    run = product_of(real, shape, precision, copy_left, True)

    def multiply(tile, stride, left, right, first, last, memory):
        inputs, inputs_width, there = left
        delta, width = right
        left_panel = (inputs, inputs_width, there, last)
        run(tile, stride, left_panel, (delta, width, width, last), first, last, memory)

    return multiply
