"""Kernels that move rows between the caller's arrays and the slabs."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp import shuffle
from fastbp.backends.contract import Batch
from fastbp.backends.cpu.intrinsics import (
    height,
    offset,
    padded_columns,
    pointer,
    size,
    vector,
)
from fastbp.backends.cpu.panels import copy_line, panel_width
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["gather_inputs", "multiply_cotangent", "store_rows"]

permute = register_jitable(shuffle.permute)
POSITION, DATA_ROWS = int(Batch.POSITION), int(Batch.DATA_ROWS)
SHUFFLE, BITS = int(Batch.SHUFFLE), int(Batch.BITS)


def gather_inputs(real, sources):
    """inputs[i] = data_inputs[r] and row_index[i] = r, r the data row at the segment's position i.

    The rows go straight into panels, so the first layer finds its inputs packed.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def gather_inputs(arguments, first_row, last_row):
        sources  # noqa: B018
        inputs, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        row_index = pointer(arguments, 1, types.int64)
        data = pointer(arguments, 2, real)
        keys = vector(arguments, 3, types.int64)
        batch = vector(arguments, 4, types.int64)
        features = size(arguments, 5, 0)
        for i in range(first_row, last_row):
            row = batch[POSITION] + i
            if batch[SHUFFLE] != 0:
                row = permute(row, batch[DATA_ROWS], batch[BITS], keys)
            row_index[i] = row
            source = offset(data, row * features)
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                target = offset(inputs, column * rows_high + i * width)
                for j in range(0, width, lanes):
                    count = features - column - j
                    copy_line(offset(target, j), offset(source, column + j), count)

    return gather_inputs


def multiply_cotangent(real, sources):
    """delta *= the cotangents of the same rows."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def multiply_cotangent(arguments, first_row, last_row):
        sources  # noqa: B018
        delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        cotangent = pointer(arguments, 1, real)
        row_index = pointer(arguments, 2, types.int64)
        outputs = size(arguments, 3, 0)
        for i in range(first_row, last_row):
            source = offset(cotangent, row_index[i] * outputs)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                target = offset(delta, column * rows_high + i * width)
                for j in range(min(width, outputs - column)):
                    target[j] *= source[column + j]

    return multiply_cotangent


def store_rows(real, sources):
    """data_outputs[position + i] = source[i]."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def store_rows(arguments, first_row, last_row):
        sources  # noqa: B018
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
