"""Matrices in panels: how the kernels address them, and how blocks are copied and transposed.

A matrix of the plan lies in panels of four lines (64 bytes each) of columns: first the columns
0 to 63 of all rows, then 64 to 127, and so on (float64: half as many). The last panel is as many
lines wide as it needs. Columns beyond the matrix's own are padding and hold zeros. So the rows
of a panel follow each other without gaps: a block of them is one run of memory for the laws, and
the product streams through it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from fastbp.backends.cpu.intrinsics import call_product, offset
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    ITEM_BYTES,
    LINE_BYTES,
    SUFFIXES,
    at,
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

__all__ = [
    "clear_padding",
    "copy_line",
    "gather_lines",
    "multiply_lines",
    "multiply_panels",
    "panel_width",
    "prefetch",
    "set_to_one",
    "transpose_block",
]


@intrinsic
def panel_width(typing_context, padded, column, lanes):
    """The width of the panel that begins at a column: four lines, or fewer at the end."""

    def generate(context, builder, signature, arguments):
        padded, column, lanes = arguments
        widest = builder.mul(lanes, I64(PANEL_LINES))
        return minimum(builder, widest, builder.sub(padded, column))

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def clear_padding(typing_context, base, rows, width, columns):
    """Set the columns from `columns` on of a panel's rows to zero; `base` is its first row.

    At least one column of the panel's last line is kept or none of it, never columns before it.
    """

    def generate(context, builder, signature, arguments):
        base, rows, width, columns = arguments
        lanes = lanes_of(base.type.pointee)
        first = builder.sub(width, I64(lanes))
        lane = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
        keep = builder.icmp_signed("<", lane, splat(builder, builder.sub(columns, first), lanes))

        def row(index: Any, _: list[Any]) -> list[Any]:
            place = at(builder, base, builder.add(builder.mul(index, width), first))
            vector = load(builder, place, lanes, LINE_BYTES)
            store(builder, builder.select(keep, vector, zero(vector.type)), place, LINE_BYTES)
            return []

        loop(builder, rows, [], row)
        return context.get_dummy_value()

    return types.void(base, rows, width, columns), generate


@intrinsic
def set_to_one(typing_context, base, rows, width, columns):
    """Set a panel's rows to one, and to zero from `columns` on; `base` is its first row."""

    def generate(context, builder, signature, arguments):
        base, rows, width, columns = arguments
        real = base.type.pointee
        lanes = lanes_of(real)
        kind = vector_type(real, lanes)

        def line(index: Any, _: list[Any]) -> list[Any]:
            shift = builder.mul(index, I64(lanes))

            def row(number: Any, _: list[Any]) -> list[Any]:
                place = at(builder, base, builder.add(builder.mul(number, width), shift))
                store(builder, values, place, LINE_BYTES)
                return []

            inside = first_lanes(builder, real, builder.sub(columns, shift))
            values = builder.select(inside, ir.Constant(kind, [1.0] * lanes), zero(kind))
            loop(builder, rows, [], row)
            return []

        loop(builder, builder.udiv(width, I64(lanes)), [], line)
        return context.get_dummy_value()

    return types.void(base, rows, width, columns), generate


@register_jitable(forceinline=True)
def multiply_panels(
    product,
    target,
    start,
    start_stride,
    a,
    height,
    padded,
    first,
    rows,
    begin,
    end,
    b,
    width,
    lanes,
):
    """target = start + A B, A being a part of a matrix in panels and B of one panel.

    The part of A is rows first <= i < first + rows by columns begin <= k < end of a matrix that is
    `height` rows high and `padded` columns wide; its panels begin at `begin`. B has a row for each
    column of the matrix; `target` and `b`, which points at B's first row, are `width` wide.
    """
    panel = PANEL_LINES * lanes
    wide = padded - padded % panel
    if begin < wide:
        call_product(
            product,
            target,
            start,
            start_stride,
            offset(a, begin * height + first * panel),
            panel,
            1,
            panel,
            height * panel,
            rows,
            offset(b, begin * width),
            min(end, wide) - begin,
        )
    if end > wide:  # in the last panel, which is narrower
        narrow = padded - wide
        begun = begin < wide
        call_product(
            product,
            target,
            target if begun else start,
            width if begun else start_stride,
            offset(a, wide * height + first * narrow),
            narrow,
            1,
            narrow,
            0,
            rows,
            offset(b, wide * width),
            end - wide,
        )


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of a square block whose rows are vectors."""
    count = len(rows)
    step = count // 2
    while step:
        changed = list(rows)
        lower = [lane if not lane & step else lane - step + count for lane in range(count)]
        upper = [lane + step if not lane & step else lane + count for lane in range(count)]
        for i in range(count):
            if not i & step:
                changed[i] = shuffle(builder, rows[i], rows[i + step], lower)
                changed[i + step] = shuffle(builder, rows[i], rows[i + step], upper)
        rows = changed
        step //= 2
    return rows


@intrinsic
def transpose_block(typing_context, target, target_stride, source, source_stride, rows, columns):
    """target[j, i] = source[i, j] for a block of at most one line by one line.

    Rows of the target are written whole: beyond `rows` they get zeros.
    """

    def generate(context, builder, signature, arguments):
        target, target_stride, source, source_stride, rows, columns = arguments
        lanes = lanes_of(source.type.pointee)
        last = builder.sub(rows, I64(1))
        vectors = []
        for i in range(lanes):
            place = builder.mul(minimum(builder, I64(i), last), source_stride)
            vector = load(builder, at(builder, source, place), lanes, LINE_BYTES)
            inside = builder.icmp_signed("<", I64(i), rows)
            vectors.append(builder.select(inside, vector, zero(vector.type)))
        for j, vector in enumerate(transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", I64(j), columns), likely=True):
                store(
                    builder,
                    vector,
                    at(builder, target, builder.mul(target_stride, I64(j))),
                    LINE_BYTES,
                )
        return context.get_dummy_value()

    return types.void(target, target_stride, source, source_stride, rows, columns), generate


def first_lanes(builder: Any, real: Any, count: Any) -> Any:
    """The mask of the first lanes of a line, `count` of them or all."""
    lanes = lanes_of(real)
    lane = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", lane, splat(builder, count, lanes))


def load_lanes(builder: Any, source: Any, mask: Any) -> Any:
    """A line of which only the lanes of a mask are read; the others are zero."""
    kind = vector_type(source.type.pointee, mask.type.count)
    pointer = kind.as_pointer()
    name = f"llvm.masked.load.v{kind.count}{SUFFIXES[str(kind.element)]}.p0"
    function = builder.module.globals.get(name)
    if function is None:
        taken = [pointer, ir.IntType(32), mask.type, kind]
        function = ir.Function(builder.module, ir.FunctionType(kind, taken), name)
    alignment = ir.IntType(32)(ITEM_BYTES[str(kind.element)])
    return builder.call(function, [builder.bitcast(source, pointer), alignment, mask, zero(kind)])


@intrinsic
def copy_line(typing_context, target, source, count):
    """target[j] = source[j] for j < count, and zero in the rest of the line.

    Nothing beyond the `count` elements of the source is read; `target` is aligned to its line.
    """

    def generate(context, builder, signature, arguments):
        target, source, count = arguments
        mask = first_lanes(builder, source.type.pointee, count)
        store(builder, load_lanes(builder, source, mask), target, LINE_BYTES)
        return context.get_dummy_value()

    return types.void(target, source, count), generate


@intrinsic
def gather_lines(
    typing_context, target, target_stride, source, source_stride, index, rows, columns
):
    """target[i, j] = source[index[i], j] for j < columns, and zero in the rest of a line.

    A line of each of some rows: row i of `target` begins `target_stride` elements further on, and
    row r of `source` at `source_stride` times r.
    """

    def generate(context, builder, signature, arguments):
        target, target_stride, source, source_stride, index, rows, columns = arguments
        mask = first_lanes(builder, source.type.pointee, columns)

        def row(i: Any, _: list[Any]) -> list[Any]:
            begin = builder.mul(builder.load(at(builder, index, i)), source_stride)
            line = load_lanes(builder, at(builder, source, begin), mask)
            place = at(builder, target, builder.mul(i, target_stride))
            store(builder, line, place, LINE_BYTES)
            return []

        loop(builder, rows, [], row)
        return context.get_dummy_value()

    taken = (target, target_stride, source, source_stride, index, rows, columns)
    return types.void(*taken), generate


@intrinsic
def multiply_lines(typing_context, target, target_stride, source, source_stride, rows, columns):
    """target[i, j] *= source[i, j] for j < columns, and zero in the rest of a line of each row."""

    def generate(context, builder, signature, arguments):
        target, target_stride, source, source_stride, rows, columns = arguments
        lanes = lanes_of(source.type.pointee)
        mask = first_lanes(builder, source.type.pointee, columns)

        def row(i: Any, _: list[Any]) -> list[Any]:
            place = at(builder, target, builder.mul(i, target_stride))
            factor = load(builder, at(builder, source, builder.mul(i, source_stride)), lanes)
            line = builder.fmul(load(builder, place, lanes, LINE_BYTES), factor)
            store(builder, builder.select(mask, line, zero(line.type)), place, LINE_BYTES)
            return []

        loop(builder, rows, [], row)
        return context.get_dummy_value()

    taken = (target, target_stride, source, source_stride, rows, columns)
    return types.void(*taken), generate


@intrinsic
def prefetch(typing_context, base, lines):
    """Ask for so many lines of memory before they are needed, into the second-level cache."""

    def generate(context, builder, signature, arguments):
        base, lines = arguments
        lanes = lanes_of(base.type.pointee)
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.globals.get("llvm.prefetch.p0")
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
            function = ir.Function(builder.module, kind, "llvm.prefetch.p0")

        def step(line: Any, _: list[Any]) -> list[Any]:
            place = at(builder, base, builder.mul(line, I64(lanes)))
            read, near, data = flag(0), flag(2), flag(1)
            builder.call(function, [builder.bitcast(place, byte), read, near, data])
            return []

        loop(builder, lines, [], step)
        return context.get_dummy_value()

    return types.void(base, lines), generate
