"""Dropout: the masks of `fastbp.masks`, in 32-bit lanes, and what they do to the values of rows."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.backends.contract import Batch
from fastbp.backends.cpu.intrinsics import (
    height,
    offset,
    padded_columns,
    pointer,
    read_tuple,
    size,
    stack_array,
)
from fastbp.backends.cpu.panels import panel_width
from fastbp.backends.cpu.single_row import for_each_width
from fastbp.backends.cpu.tuning import BLOCK_ROWS, PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    LINE_BYTES,
    at,
    lanes_of,
    load,
    loop,
    splat,
    store,
    zero,
)
from fastbp.masks import GOLDEN

__all__ = ["dropout_forward"]

POSITION = int(Batch.POSITION)
I32 = ir.IntType(32)
WORDS = LINE_BYTES // 4  # of 32 bits in a line


def each(value: int, lanes: int) -> ir.Constant:
    """A vector of equal words."""
    return ir.Constant(ir.VectorType(I32, lanes), [value] * lanes)


def counted(lanes: int, kind: Any = I32) -> ir.Constant:
    """The vector 0, 1, 2, ..."""
    return ir.Constant(ir.VectorType(kind, lanes), list(range(lanes)))


def mixed(builder: Any, word: Any) -> Any:
    """`fastbp.masks.mix` on a vector of words."""
    lanes = word.type.count
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = builder.xor(word, builder.lshr(word, each(shift, lanes)))
        word = builder.mul(word, each(factor, lanes))
    return builder.xor(word, builder.lshr(word, each(16, lanes)))


@intrinsic
def row_keys(typing_context, target, position, layer, keys, rows):
    """target[i] = the key of the row at position + i, for i < rows and up to the end of a line."""

    def generate(context, builder, signature, arguments):
        target, position, layer, keys, rows = arguments
        first, second, third = (
            splat(builder, builder.trunc(builder.extract_value(keys, i), I32), WORDS)
            for i in range(3)
        )
        step = builder.mul(builder.trunc(layer, I32), I32(GOLDEN))
        of_layer = splat(builder, step, WORDS)

        def line(index: Any, _: list[Any]) -> list[Any]:
            shift = builder.mul(index, I64(WORDS))
            begin = splat(builder, builder.add(position, shift), WORDS)
            positions = builder.add(begin, counted(WORDS, I64))
            kind = ir.VectorType(I32, WORDS)
            far = ir.Constant(positions.type, [32] * WORDS)
            low = builder.trunc(positions, kind)
            high = builder.trunc(builder.lshr(positions, far), kind)
            word = mixed(builder, builder.xor(low, first))
            word = mixed(builder, builder.xor(builder.xor(word, high), second))
            word = mixed(builder, builder.add(word, of_layer))
            word = builder.xor(word, third)
            place = builder.bitcast(at(builder, target, shift), kind.as_pointer())
            builder.store(word, place, align=LINE_BYTES)
            return []

        lines = builder.udiv(builder.add(rows, I64(WORDS - 1)), I64(WORDS))
        loop(builder, lines, [], line)
        return context.get_dummy_value()

    return types.void(target, position, layer, keys, rows), generate


@intrinsic
def drop(typing_context, output, derivative, inputs, keys, rows, sizes, scale):
    """derivative = scale or 0, output = inputs * derivative, for some rows of a panel.

    `sizes`: the panel's first column and its width, the columns that the matrix has, the threshold.
    """

    def generate(context, builder, signature, arguments):
        output, derivative, inputs, keys, rows, sizes, scale = arguments
        column, width, columns, threshold = (builder.extract_value(sizes, i) for i in range(4))
        lanes = lanes_of(inputs.type.pointee)
        scales = splat(builder, scale, lanes)
        limit = splat(builder, builder.trunc(threshold, I32), lanes)
        end = splat(builder, builder.trunc(columns, I32), lanes)

        def panel(lines: int) -> None:
            words, inside = [], []
            for i in range(lines):
                begin = builder.add(builder.trunc(column, I32), I32(i * lanes))
                here = builder.add(splat(builder, begin, lanes), counted(lanes))
                words.append(builder.mul(here, each(GOLDEN, lanes)))
                inside.append(builder.icmp_signed("<", here, end))

            def row(index: Any, _: list[Any]) -> list[Any]:
                key = splat(builder, builder.load(at(builder, keys, index)), lanes)
                start = builder.mul(index, I64(lines * lanes))
                for i in range(lines):
                    place = builder.add(start, I64(i * lanes))
                    word = mixed(builder, builder.xor(words[i], key))
                    keep = builder.icmp_unsigned(">=", word, limit)
                    if i == lines - 1:  # only a last line has padding
                        keep = builder.and_(keep, inside[i])
                    slope = builder.select(keep, scales, zero(scales.type))
                    value = load(builder, at(builder, inputs, place), lanes, LINE_BYTES)
                    store(builder, slope, at(builder, derivative, place), LINE_BYTES)
                    product = builder.fmul(value, slope)
                    store(builder, product, at(builder, output, place), LINE_BYTES)
                return []

            loop(builder, rows, [], row)

        for_each_width(builder, width, lanes, panel)
        return context.get_dummy_value()

    taken = (output, derivative, inputs, keys, rows, sizes, scale)
    return types.void(*taken), generate


def dropout_forward(real):
    """derivative = scale where a value is kept, else 0; output = inputs * derivative."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def dropout_forward(arguments, first_row, last_row):
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        derivative, inputs = pointer(arguments, 1, real), pointer(arguments, 2, real)
        keys = read_tuple(pointer(arguments, 3, types.int64), 1, 3)
        position = pointer(arguments, 4, types.int64)[POSITION]
        scale = pointer(arguments, 5, real)[0]
        columns, layer, threshold = (
            size(arguments, 6, 0),
            size(arguments, 6, 1),
            size(arguments, 6, 2),
        )
        words = stack_array(BLOCK_ROWS, types.int32)
        for first in range(first_row, last_row, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, last_row - first)
            row_keys(words, position + first, layer, keys, rows)
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                place = column * rows_high + first * width
                drop(
                    offset(output, place),
                    offset(derivative, place),
                    offset(inputs, place),
                    words,
                    rows,
                    (column, width, columns, threshold),
                    scale,
                )

    return dropout_forward
