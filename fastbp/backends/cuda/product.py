"""The matrix product of a block of threads: a tile of sums in registers, factors in shared memory.

The depth is taken 16 at a time. While the sums of one part are added up from shared memory, the
next part is on its way from global memory into registers, and goes to the other of two buffers.
Each sum is one chain of fused multiply-adds in ascending order of the depth.

A tile is as wide as a panel, so that all of the right factor's columns lie in one panel, and a part
of the depth never straddles two panels of the left one.
"""

from __future__ import annotations

from fastbp.backends.cuda.intrinsics import in_turn
from fastbp.backends.cuda.language import (
    barrier,
    fill,
    load_vectors,
    outer_product,
    quotient,
    registers,
    remainder,
    store_vectors,
    thread,
)
from fastbp.backends.cuda.tuning import DEPTH, THREADS, TileShape

__all__ = ["multiply_rows", "multiply_transposed", "staging_elements", "whole_parts"]

MANY_SUMS = 64  # of a thread


def left_stride(shape: TileShape) -> int:
    """Numbers between rows of the left factor in shared memory: no two rows on the same banks."""
    return DEPTH + shape.vector


def is_large(shape):
    """Whether the sums leave a thread few registers for anything else, of the 128 it has."""
    return shape.high * shape.wide >= MANY_SUMS


def whole_parts(depth):
    """The least multiple of DEPTH of at least `depth`."""
    return quotient(depth + DEPTH - 1, DEPTH) * DEPTH


def staging_elements(shape: TileShape) -> int:
    """Numbers of shared memory that both buffers take."""
    return 2 * (shape.rows * left_stride(shape) + DEPTH * shape.columns)


def pieces(elements: int, vector: int) -> int:
    """Vectors that each thread copies when a block copies so many numbers."""
    return -(-elements // (vector * THREADS))


def fetch_panel(real, shape, columns):
    """Make ``fetch(values, (source, width, there, end), begin)`` and ``keep(memory, at, values)``.

    Between them they copy rows begin to begin + DEPTH of a panel, `columns` wide, to shared memory;
    zeros beyond `end` and beyond the columns that are there. Rows are `width` apart.
    """
    vector = shape.vector
    count, across, total = pieces(DEPTH * columns, vector), columns // vector, DEPTH * columns

    def fetch_piece(n):
        first, at = n * THREADS, n * vector

        def fetch(values, matrix, begin):
            source, width, there, end = matrix
            piece = first + thread()
            row, column = begin + quotient(piece, across), remainder(piece, across) * vector
            fill(values, at, real(0.0), vector)
            if row < end and column < there:
                load_vectors(values, at, source, row * width + column, 0, 1)

        return fetch

    def keep_piece(n):
        first, origin = n * THREADS, n * vector

        def keep(memory, at, values):
            piece = (first + thread()) * vector
            if piece < total:
                store_vectors(memory, at + piece, 0, 0, values, origin, 1, 1)

        return keep

    return in_turn(fetch_piece, count), in_turn(keep_piece, count), count * vector


def fetch_rows(real, shape, panel, turned):
    """Make ``fetch(values, (first, last, source, rows high, padded), begin)`` and ``keep``.

    Between them they copy columns begin to begin + DEPTH of the rows first to last of a matrix in
    panels; zeros beyond both. In shared memory that is (rows, DEPTH), or turned (DEPTH, rows).
    There the rows of each vector of columns are exchanged, those of a thread with those of another,
    so that what a warp keeps at a time, of 8 rows and all columns, goes to different banks.
    """
    vector, stride = shape.vector, left_stride(shape)
    rows, high, across = shape.rows, shape.high, DEPTH // shape.vector
    count = pieces(rows * DEPTH, vector)

    def fetch_piece(n):
        start, at = n * THREADS, n * vector

        def fetch(values, matrix, begin):
            first, last, source, rows_high, padded = matrix
            before = quotient(begin, panel) * panel
            width = min(panel, padded - before)
            piece = start + thread()
            row = first + quotient(piece, across)
            column = begin - before + remainder(piece, across) * vector
            fill(values, at, real(0.0), vector)
            if row < last and column < width:
                place = before * rows_high + row * width + column
                load_vectors(values, at, source, place, 0, 1)

        return fetch

    def keep_piece(n):
        start, origin = n * THREADS, n * vector

        def keep(memory, at, values):
            piece = start + thread()
            row, column = quotient(piece, across), remainder(piece, across) * vector
            if row < rows:
                place = at + row * stride + column
                store_vectors(memory, place, 0, 0, values, origin, 1, 1)

        def keep_number(q):
            def keep_number(memory, place, values):
                memory[place + q * rows] = values[origin + q]

            return keep_number

        keep_numbers = in_turn(keep_number, vector)

        def keep_turned(memory, at, values):
            piece = start + thread()
            row, turn = quotient(piece, across), remainder(piece, across)
            if row < rows:
                place = at + turn * vector * rows + (row ^ (turn * high))
                keep_numbers(memory, place, values)

        return keep_turned if turned else keep

    return in_turn(fetch_piece, count), in_turn(keep_piece, count), count * vector


def add_products(real, shape):
    """Make a function that adds a part of the depth, both factors in shared memory."""
    vector, across, down = shape.vector, shape.across, shape.down
    high, groups, wide, columns = shape.high, shape.groups, shape.wide, shape.columns
    held = high * vector

    def step(q):
        def add_column(values, memory, place):
            sums, left, right = values
            row, apart = place + q * columns, across * vector
            load_vectors(right, 0, memory, row, apart, groups)
            outer_product(sums, left, q, vector, right, high, wide)

        return add_column

    add_columns = in_turn(step, vector)

    def add(sums, rows, left_at, stride, memory, right_at):
        """The left factor has rows `stride` apart; the right one is (DEPTH, columns)."""
        left, right = registers(held, real), registers(wide, real)
        t = thread()
        x, y = remainder(t, across), quotient(t, across)
        for k in range(0, DEPTH, vector):
            place = left_at + y * stride + k
            load_vectors(left, 0, rows, place, down * stride, high)
            add_columns((sums, left, right), memory, right_at + k * columns + x * vector)

    return add


def add_transposed_products(real, shape, exchanged=False):
    """The same where the left factor too is (DEPTH, rows); a thread's rows are neighbours.

    They may be exchanged as `fetch_rows` does it.
    """
    vector, across = shape.vector, shape.across
    high, groups, wide = shape.high, shape.groups, shape.wide
    rows, columns = shape.rows, shape.columns

    vectors = high // vector

    if high % vector == 0:

        def take_left(left, memory, place):
            load_vectors(left, 0, memory, place, vector, vectors)

    else:

        def take(i):
            def take_one(left, memory, place):
                left[i] = memory[place + i]

            return take_one

        take_left = in_turn(take, high)

    def step(q):
        def add_row(values, memory, places):
            sums, left, right = values
            left_place, right_place = places
            take_left(left, memory, left_place + q * rows)
            row, apart = right_place + q * columns, across * vector
            load_vectors(right, 0, memory, row, apart, groups)
            outer_product(sums, left, 0, 1, right, high, wide)

        return add_row

    # Written out: the compiler, left to itself, does so for some shapes only. With four, it has
    # factors of all of them in registers.
    steps = 2 if is_large(shape) else 4
    add_rows = in_turn(step, steps)

    if exchanged:

        def row_of(y, k):
            return y ^ quotient(k, vector)

    else:

        def row_of(y, k):
            return y

    def add(sums, memory, left_at, right_at):
        left, right = registers(high, real), registers(wide, real)
        t = thread()
        x, y = remainder(t, across), quotient(t, across)
        for k in range(0, DEPTH, steps):
            row = row_of(y, k)
            places = (left_at + k * rows + row * high, right_at + k * columns + x * vector)
            add_rows((sums, left, right), memory, places)

    return add


def spill(shape, transposed):
    """Make a function that writes the sums to a tile in shared memory, rows `stride` apart."""
    vector, across, down = shape.vector, shape.across, shape.down
    high, groups = shape.high, shape.groups

    def write(tile, stride, sums):
        t = thread()
        x, y = remainder(t, across), quotient(t, across)
        row, apart = (y * high, stride) if transposed else (y, down * stride)
        place, step = row * stride + x * vector, across * vector
        store_vectors(tile, place, step, apart, sums, 0, high, groups)

    return write


def pipelined(real, copy_left, copy_right, add_part, write, count, sizes, part):
    """Make ``run(tile, stride, left, right, first, last, memory)``: the sums over a depth.

    `copy_left` and `copy_right` are functions that fetch and keep a part of a factor, and how many
    registers they take between the two; `left` and `right` are what they fetch from.
    ``add_part(sums, memory, at)`` adds the part in a buffer, ``write(tile, stride, sums)`` writes
    the `count` sums. `sizes` are the numbers of the left factor in a buffer and of all of it, and
    `part` is how much of the depth that is.
    """
    fetch_left, keep_left, left_count = copy_left
    fetch_right, keep_right, right_count = copy_right
    left_size, half = sizes

    def run(tile, stride, left, right, first, last, memory):
        sums = registers(count, real)
        next_left, next_right = registers(left_count, real), registers(right_count, real)
        fill(sums, 0, real(0.0), count)
        fetch_left(next_left, left, first)
        fetch_right(next_right, right, first)
        keep_left(memory, 0, next_left)
        keep_right(memory, left_size, next_right)
        barrier()
        at = 0
        for begin in range(first, last, part):
            if begin + part < last:
                fetch_left(next_left, left, begin + part)
                fetch_right(next_right, right, begin + part)
            add_part(sums, memory, at)
            at = half - at
            if begin + part < last:
                keep_left(memory, at, next_left)
                keep_right(memory, at + left_size, next_right)
            barrier()
        write(tile, stride, sums)
        barrier()

    return run


def multiply_rows(real, shape, near):
    """Make ``multiply(tile, stride, left, right, depth, memory)``: tile = left @ right.

    `left` is (first, last, pointer, rows high, padded columns): rows of a matrix in panels; or,
    with `near`, (pointer, stride): rows in shared memory, which are zero up to a multiple of DEPTH.
    `right` is (pointer, width), one panel. `memory` is shared, for `staging_elements` numbers,
    which the tile may overlap. All threads see the tile when this returns.
    """
    panel, stride_of_left = shape.columns, left_stride(shape)
    # Vectors of a row are four numbers of the depth, for each row of a thread. Where these are too
    # many registers, the left factor is turned, and a vector has one number for each of four rows.
    turned = is_large(shape) and not near
    fetch_left, keep_left, left_count = fetch_rows(real, shape, panel, turned)
    fetch_right, keep_right, right_count = fetch_panel(real, shape, shape.columns)
    add, add_turned = (
        add_products(real, shape),
        add_transposed_products(real, shape, exchanged=True),
    )
    write = spill(shape, turned)
    count, right_size = shape.high * shape.wide, DEPTH * shape.columns
    left_size = 0 if near else shape.rows * (DEPTH if turned else stride_of_left)
    half = left_size + right_size

    def add_rows(sums, memory, at):
        add(sums, memory, at, stride_of_left, memory, at + left_size)

    def add_columns(sums, memory, at):
        add_turned(sums, memory, at, at + left_size)

    add_part = add_columns if turned else add_rows

    if near:

        def multiply_near(tile, stride, left, right, depth, memory):
            sums, next_right = registers(count, real), registers(right_count, real)
            source, apart = left
            weight, width = right
            panel_of_right = (weight, width, width, depth)
            fill(sums, 0, real(0.0), count)
            fetch_right(next_right, panel_of_right, 0)
            keep_right(memory, 0, next_right)
            barrier()
            at = 0
            for begin in range(0, depth, DEPTH):
                if begin + DEPTH < depth:
                    fetch_right(next_right, panel_of_right, begin + DEPTH)
                add(sums, source, begin, apart, memory, at)
                at = half - at
                if begin + DEPTH < depth:
                    keep_right(memory, at, next_right)
                barrier()
            write(tile, stride, sums)
            barrier()

        return multiply_near

    copies = (fetch_left, keep_left, left_count), (fetch_right, keep_right, right_count)
    run = pipelined(real, *copies, add_part, write, count, (left_size, half), DEPTH)

    def multiply(tile, stride, left, right, depth, memory):
        weight, width = right
        run(tile, stride, left, (weight, width, width, depth), 0, depth, memory)

    return multiply


def multiply_transposed(real, shape):
    """Make ``multiply(tile, stride, left, right, first, last, memory)``: tile = left.T @ right.

    Both factors are panels whose rows first to last are summed over: `right` is (pointer, width);
    `left` is (pointer, width, columns), where the pointer may be within the panel, so that fewer
    columns than its width are there.
    """
    rows, columns = shape.rows, shape.columns
    add = add_transposed_products(real, shape)
    left_size, half = DEPTH * rows, DEPTH * (rows + columns)

    def add_part(sums, memory, at):
        add(sums, memory, at, at + left_size)

    run = pipelined(
        real,
        fetch_panel(real, shape, rows),
        fetch_panel(real, shape, columns),
        add_part,
        spill(shape, True),
        shape.high * shape.wide,
        (left_size, half),
        DEPTH,
    )

    def multiply(tile, stride, left, right, first, last, memory):
        inputs, inputs_width, there = left
        delta, width = right
        left_panel = (inputs, inputs_width, there, last)
        run(tile, stride, left_panel, (delta, width, width, last), first, last, memory)

    return multiply
