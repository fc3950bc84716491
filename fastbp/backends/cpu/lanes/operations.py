"""What the kernels for rows in lanes do with whole vectors: gather, spread, multiply, add up.

A sum over the rows of the batch runs in the lanes of a line first, lines ascending, and then over
the lanes in the fixed tree of `reductions`, so its bits do not depend on how wide registers are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.backends.cpu.panels import first_lanes, load_lanes
from fastbp.backends.cpu.reductions import add_up
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    LINE_BYTES,
    at,
    fused_multiply_add,
    lanes_of,
    load,
    loop,
    minimum,
    shuffle,
    splat,
    store,
    vector_type,
    zero,
)

__all__ = ["add_lanes", "fill_lines", "gather_columns", "multiply_lanes", "spread"]

SQUARE = 4  # columns that are turned at a time


@intrinsic
def spread(typing_context, target, source, count):
    """target[i, j] = source[i] for i < count and all columns j of a panel of four lines."""

    def generate(context, builder, signature, arguments):
        target, source, count = arguments
        lanes = lanes_of(target.type.pointee)

        def row(i: Any, _: list[Any]) -> list[Any]:
            vector = splat(builder, builder.load(at(builder, source, i)), lanes)
            begin = at(builder, target, builder.mul(i, I64(PANEL_LINES * lanes)))
            for line in range(PANEL_LINES):
                store(builder, vector, at(builder, begin, line * lanes), LINE_BYTES)
            return []

        loop(builder, count, [], row)
        return context.get_dummy_value()

    return types.void(target, source, count), generate


@intrinsic
def fill_lines(typing_context, target, value, lines):
    """target[j] = value for so many lines, written as they will be read: in whole vectors."""

    def generate(context, builder, signature, arguments):
        target, value, lines = arguments
        lanes = lanes_of(target.type.pointee)
        vector = splat(builder, value, lanes)

        def line(i: Any, _: list[Any]) -> list[Any]:
            store(builder, vector, at(builder, target, builder.mul(i, I64(lanes))), LINE_BYTES)
            return []

        loop(builder, lines, [], line)
        return context.get_dummy_value()

    return types.void(target, value, lines), generate


def turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Four columns of a line's worth of rows; row r is a vector of four numbers."""
    lanes = len(rows)
    quarters = []  # vector k has the rows k, 4 + k, 8 + k, ... one after the other
    for k in range(SQUARE):
        parts = rows[k::SQUARE]
        while len(parts) > 1:
            both = range(2 * parts[0].type.count)
            parts = [
                shuffle(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        quarters += parts

    def interleaved(a: Any, b: Any, pattern: tuple[int, ...]) -> Any:
        """Within each group of four lanes: lanes 0 to 3 of a's group, 4 to 7 of b's."""
        chosen = []
        for group in range(0, lanes, SQUARE):
            chosen += [group + p if p < SQUARE else lanes + group + p - SQUARE for p in pattern]
        return shuffle(builder, a, b, chosen)

    pairs = [
        [interleaved(a, b, pattern) for pattern in ((0, 4, 1, 5), (2, 6, 3, 7))]
        for a, b in (quarters[:2], quarters[2:])
    ]
    return [
        interleaved(low, high, pattern)
        for low, high in zip(*pairs, strict=True)
        for pattern in ((0, 1, 4, 5), (2, 3, 6, 7))
    ]


@intrinsic
def gather_columns(typing_context, target, width, source, source_stride, index, rows, columns):
    """target[j, i] = source[index[i], j] for i < rows and j < columns, and zero for other i.

    `target` is a panel that is `width` wide; row r of `source` begins at `source_stride` times r.
    Of a row nothing beyond its columns is read.
    """

    def generate(context, builder, signature, arguments):
        target, width, source, source_stride, index, rows, columns = arguments
        real = source.type.pointee
        lanes = lanes_of(real)
        last = builder.sub(rows, I64(1))
        chunks = builder.sdiv(builder.add(columns, I64(SQUARE - 1)), I64(SQUARE))

        def line(number: Any, is_whole: bool) -> None:
            first = builder.mul(number, I64(lanes))

            def chunk(c: Any, _: list[Any]) -> list[Any]:
                column = builder.mul(c, I64(SQUARE))
                left = builder.sub(columns, column)
                lane = ir.Constant(ir.VectorType(I64, SQUARE), list(range(SQUARE)))
                mask = builder.icmp_signed("<", lane, splat(builder, left, SQUARE))
                found = []
                for i in range(lanes):
                    position = builder.add(first, I64(i))
                    if not is_whole:
                        position = minimum(builder, position, last)
                    begin = builder.mul(builder.load(at(builder, index, position)), source_stride)
                    place = at(builder, at(builder, source, begin), column)
                    found.append(load_lanes(builder, place, mask))
                vectors = turned(builder, found)
                inside = first_lanes(builder, real, builder.sub(rows, first))
                for j, vector in enumerate(vectors):
                    kept = vector
                    if not is_whole:
                        kept = builder.select(inside, vector, zero(vector.type))
                    with builder.if_then(builder.icmp_signed("<", I64(j), left), likely=True):
                        row = builder.mul(builder.add(column, I64(j)), width)
                        place = at(builder, target, builder.add(row, first))
                        store(builder, kept, place, LINE_BYTES)
                return []

            loop(builder, chunks, [], chunk)

        def whole(number: Any, _: list[Any]) -> list[Any]:
            line(number, True)
            return []

        def begun(_: Any, __: list[Any]) -> list[Any]:
            line(full, False)
            return []

        full = builder.sdiv(rows, I64(lanes))
        loop(builder, full, [], whole)
        is_begun = builder.zext(
            builder.icmp_signed(">", builder.srem(rows, I64(lanes)), I64(0)), I64
        )
        loop(builder, is_begun, [], begun)
        used = builder.add(full, is_begun)

        def clear(number: Any, _: list[Any]) -> list[Any]:
            first = builder.mul(builder.add(used, number), I64(lanes))

            def one(j: Any, _: list[Any]) -> list[Any]:
                place = at(builder, target, builder.add(builder.mul(j, width), first))
                store(builder, zero(vector_type(real, lanes)), place, LINE_BYTES)
                return []

            loop(builder, columns, [], one)
            return []

        loop(builder, builder.sub(builder.sdiv(width, I64(lanes)), used), [], clear)
        return context.get_dummy_value()

    taken = (target, width, source, source_stride, index, rows, columns)
    return types.void(*taken), generate


def over_panels(
    builder: Any,
    lanes: int,
    extent: tuple[Any, Any],
    factors: list[tuple[Any, Any]],
    carried: list[Any],
    step: Callable[[list[Any], Any, Any, list[Any]], list[Any]],
) -> list[Any]:
    """Go through all lines of the panels that the rows of a batch fill.

    `extent` is the number of rows and the padded columns of the matrices, `factors` are pointers
    to their first panels with the matrices' heights. ``step(panels, width, shift, carried)`` gets
    the panels' pointers, their width and how far the line is from a row's begin.
    """
    rows, padded = extent
    panel = I64(PANEL_LINES * lanes)
    wide = builder.sdiv(padded, panel)
    needed = builder.sdiv(builder.add(rows, builder.sub(panel, I64(1))), panel)
    full = minimum(builder, needed, wide)
    narrow = builder.srem(padded, panel)
    parts = [(full, panel), (builder.sub(needed, full), narrow)]
    state = [base for base, _ in factors] + carried
    many = len(factors)
    for count, width in parts:

        def one_panel(_: Any, state: list[Any], width: Any = width) -> list[Any]:
            panels, sums = state[:many], state[many:]

            def one_line(line: Any, sums: list[Any]) -> list[Any]:
                return step(panels, width, builder.mul(line, I64(lanes)), sums)

            sums = loop(builder, builder.sdiv(width, I64(lanes)), sums, one_line)
            heights = [high for _, high in factors]
            following = [
                at(builder, base, builder.mul(high, width))
                for base, high in zip(panels, heights, strict=True)
            ]
            return [*following, *sums]

        state = loop(builder, count, state, one_panel)
    return state[many:]


def add_to(builder: Any, place: Any, sums: Any, is_first: Any) -> None:
    """Add a vector to what lies at a place; the first time, to zero."""
    before = load(builder, place, sums.type.count)
    start = builder.select(is_first, zero(sums.type), before)
    store(builder, builder.fadd(start, sums), place)


def each_group(
    builder: Any, total: Any, sizes: tuple[int, ...], body: Callable[[Any, int], None]
) -> None:
    """Emit ``body(first, size)`` for the groups of a count, as many of each size as still fit."""
    done = I64(0)
    for size in sizes:
        count = builder.sdiv(builder.sub(total, done), I64(size))

        def group(i: Any, _: list[Any], size: int = size, done: Any = done) -> list[Any]:
            body(builder.add(done, builder.mul(i, I64(size))), size)
            return []

        loop(builder, count, [], group)
        done = builder.add(done, builder.mul(count, I64(size)))


def lower_sizes(most: int) -> tuple[int, ...]:
    """The sizes of groups that finish what groups of the largest size leave."""
    return (most, *(size for size in (4, 2, 1) if size < most))


@intrinsic(prefer_literal=True)
def multiply_lanes(typing_context, target, stride, a, b, part, sizes, is_first, high, wide):
    """target[f, u] += sum over i of a[f, i] b[u, i], over the rows i of a batch.

    `a` and `b` are matrices in panels of the batch's rows. `part`: the first f and how many, the
    first u and how many; `target` points at the first of both, and its next row is `stride`
    further on. `sizes`: the heights of the two matrices, rows of the batch, padded columns. With
    `is_first`, the sums begin at zero. `high` and `wide`, a power of two, are the shape of a tile.
    """
    tile_shape = high.literal_value, wide.literal_value

    def generate(context, builder, signature, arguments):
        target, stride, a, b, part, sizes, is_first = arguments[:7]
        begin_f, features, begin_u, units = (builder.extract_value(part, i) for i in range(4))
        a_height, b_height, rows, padded = (builder.extract_value(sizes, i) for i in range(4))
        lanes = lanes_of(target.type.pointee)
        kind = vector_type(target.type.pointee, lanes)

        def tile(feature: Any, high: int, unit: Any, wide: int) -> None:
            first, other = builder.add(begin_f, feature), builder.add(begin_u, unit)
            lefts = [builder.add(first, I64(i)) for i in range(high)]
            rights = [builder.add(other, I64(u)) for u in range(wide)]

            def step(panels: list[Any], width: Any, shift: Any, sums: list[Any]) -> list[Any]:
                def line_of(base: Any, row: Any) -> Any:
                    place = builder.add(builder.mul(row, width), shift)
                    return load(builder, at(builder, base, place), lanes, LINE_BYTES)

                factors = [line_of(panels[1], row) for row in rights]
                changed = []
                for i, row in enumerate(lefts):
                    value = line_of(panels[0], row)
                    for u, factor in enumerate(factors):
                        total = sums[i * wide + u]
                        changed.append(fused_multiply_add(builder, value, factor, total))
                return changed

            sums = over_panels(
                builder,
                lanes,
                (rows, padded),
                [(a, a_height), (b, b_height)],
                [zero(kind)] * (high * wide),
                step,
            )
            for done in range(0, high * wide, lanes):
                together = sums[done : done + lanes]
                count = len(together)
                while len(together) & (len(together) - 1):
                    together.append(zero(kind))
                some = add_up(builder, together)
                for begin in range(0, count, wide):
                    row = builder.add(feature, I64((done + begin) // wide))
                    place = builder.add(builder.mul(row, stride), unit)
                    part = shuffle(builder, some, some, range(begin, begin + wide))
                    add_to(builder, at(builder, target, place), part, is_first)

        def some_features(feature: Any, high: int) -> None:
            each_group(
                builder,
                units,
                lower_sizes(tile_shape[1]),
                lambda unit, wide: tile(feature, high, unit, wide),
            )

        each_group(builder, features, lower_sizes(tile_shape[0]), some_features)
        return context.get_dummy_value()

    taken = (target, stride, a, b, part, sizes, is_first, high, wide)
    return types.void(*taken), generate


@intrinsic
def add_lanes(typing_context, target, source, part, sizes, is_first):
    """target[u] += sum over i of source[u, i], over the rows i of a batch.

    `part`: the first u, at which `target` points, and how many. `sizes`: the height of the matrix,
    rows of the batch, padded columns. With `is_first`, the sums begin at zero.
    """

    def generate(context, builder, signature, arguments):
        target, source, part, sizes, is_first = arguments
        begin, units = (builder.extract_value(part, i) for i in range(2))
        source_height, rows, padded = (builder.extract_value(sizes, i) for i in range(3))
        lanes = lanes_of(target.type.pointee)
        kind = vector_type(target.type.pointee, lanes)

        def some(first: Any, count: int) -> None:
            def step(panels: list[Any], width: Any, shift: Any, sums: list[Any]) -> list[Any]:
                changed = []
                for u, total in enumerate(sums):
                    row = builder.add(builder.add(begin, first), I64(u))
                    place = builder.add(builder.mul(row, width), shift)
                    place = at(builder, panels[0], place)
                    line = load(builder, place, lanes, LINE_BYTES)
                    changed.append(builder.fadd(total, line))
                return changed

            sums = over_panels(
                builder,
                lanes,
                (rows, padded),
                [(source, source_height)],
                [zero(kind)] * count,
                step,
            )
            add_to(builder, at(builder, target, first), add_up(builder, sums), is_first)

        each_group(builder, units, (lanes, 4, 1), some)
        return context.get_dummy_value()

    return types.void(target, source, part, sizes, is_first), generate
