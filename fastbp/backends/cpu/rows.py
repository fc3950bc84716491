"""Kernels that move rows between the caller's arrays and the slabs."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp import shuffle
from fastbp.backends.contract import Batch
from fastbp.backends.cpu.elementwise import map_elements
from fastbp.backends.cpu.intrinsics import (
    height,
    offset,
    padded_columns,
    pointer,
    size,
    stack_array,
    vector,
)
from fastbp.backends.cpu.panels import copy_line, gather_lines, panel_width, prefetch
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["gather_inputs", "multiply_cotangent", "order_rows", "store_rows"]

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
SHUFFLE, BITS = int(Batch.SHUFFLE), int(Batch.BITS)
ORDER_BEGIN, ORDER_END = int(Batch.ORDER_BEGIN), int(Batch.ORDER_END)
PREFETCHED_LINES = 4  # longer rows are left to the processor, which sees where they go on
CHUNK = 64  # positions that are enciphered together

encipher = register_jitable(forceinline=True)(shuffle.encipher)


@register_jitable(forceinline=True)
def enciphered(index, bits, keys):
    return (encipher(index, bits, keys),)


def order_rows(real):
    """row_index[i] = data row at the position ORDER_BEGIN + i, as far as `row_index` reaches.

    Nothing is done where the segment's positions are already there. The bijection runs on whole
    vectors of positions; those that it puts beyond the last row go through it again, together.
    """

    def order_rows(arguments, first_row, last_row):
        row_index = vector(arguments, 0, types.int64)
        keys = pointer(arguments, 1, types.int64)
        batch = vector(arguments, 2, types.int64)
        begin, rows = batch[POSITION], batch[DATA_ROWS]
        if batch[ORDER_BEGIN] <= begin and begin + batch[ROWS] <= batch[ORDER_END]:
            return
        count = min(row_index.size, rows - begin)
        batch[ORDER_BEGIN] = begin
        batch[ORDER_END] = begin + count
        if batch[SHUFFLE] == 0:
            for i in range(count):
                row_index[i] = begin + i
            return
        index = stack_array(CHUNK, types.int64)
        place = stack_array(CHUNK, types.int64)
        for j in range(CHUNK):
            index[j] = 0
        for i in range(0, count, CHUNK):
            left = min(CHUNK, count - i)
            for j in range(left):
                index[j] = begin + i + j
                place[j] = i + j
            while left > 0:
                lines = (left + 7) // 8
                map_elements(enciphered, (index,), (batch[BITS], keys), (index,), lines)
                again = 0
                for j in range(left):
                    row = index[j]
                    if row < rows:
                        row_index[place[j]] = row
                    else:
                        index[again] = row
                        place[again] = place[j]
                        again += 1
                left = again

    return order_rows


@register_jitable(forceinline=True)
def order_of_segment(arguments, row_index, batch):
    """The data rows of a segment, in order; the positions of the two tensors are given."""
    places = pointer(arguments, batch, types.int64)
    shift = places[POSITION] - places[ORDER_BEGIN]
    return offset(pointer(arguments, row_index, types.int64), shift)


def gather_inputs(real):
    """inputs[i] = the data row that stands at the segment's position i.

    The rows go straight into panels, so the first layer finds its inputs packed.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def gather_inputs(arguments, first_row, last_row):
        inputs, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        data = pointer(arguments, 1, real)
        batch = pointer(arguments, 3, types.int64)
        row_index = order_of_segment(arguments, 2, 3)
        features = size(arguments, 4, 0)
        ahead, known = batch[ROWS], batch[ORDER_END] - batch[POSITION]
        few = (features + lanes - 1) // lanes if features <= PREFETCHED_LINES * lanes else 0
        if few > 0:  # the same rows of the next batch; long rows come in time anyway
            for i in range(first_row + ahead, min(last_row + ahead, known)):
                prefetch(offset(data, row_index[i] * features), few)
        if padded <= panel:
            target, index = offset(inputs, first_row * padded), offset(row_index, first_row)
            rows = last_row - first_row
            for j in range(0, padded, lanes):
                line, source = offset(target, j), offset(data, j)
                gather_lines(line, padded, source, features, index, rows, features - j)
            return
        for i in range(first_row, last_row):
            source = offset(data, row_index[i] * features)
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                target = offset(inputs, column * rows_high + i * width)
                for j in range(0, width, lanes):
                    count = features - column - j
                    copy_line(offset(target, j), offset(source, column + j), count)

    return gather_inputs


def multiply_cotangent(real):
    """delta *= the cotangents of the same rows, which come in the order of the data."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def multiply_cotangent(arguments, first_row, last_row):
        delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        cotangent = pointer(arguments, 1, real)
        position = pointer(arguments, 2, types.int64)[POSITION]
        outputs = size(arguments, 3, 0)
        for i in range(first_row, last_row):
            source = offset(cotangent, (position + i) * outputs)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                target = offset(delta, column * rows_high + i * width)
                for j in range(min(width, outputs - column)):
                    target[j] *= source[column + j]

    return multiply_cotangent


def store_rows(real):
    """data_outputs[position + i] = source[i]."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def store_rows(arguments, first_row, last_row):
        data = pointer(arguments, 0, real)
        matrix, rows_high = pointer(arguments, 1, real), height(arguments, 1)
        padded = padded_columns(arguments, 1)
        position = vector(arguments, 2, types.int64)[POSITION]
        columns = size(arguments, 3, 0)
        for i in range(first_row, last_row):
            target = offset(data, (position + i) * columns)
            for column in range(0, columns, panel):
                width = panel_width(padded, column, lanes)
                source = offset(matrix, column * rows_high + i * width)
                for j in range(min(width, columns - column)):
                    target[column + j] = source[j]

    return store_rows
