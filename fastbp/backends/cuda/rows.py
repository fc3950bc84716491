"""Kernels that move rows between the caller's arrays and the slabs."""

from __future__ import annotations

from fastbp.backends.contract import Batch
from fastbp.backends.cuda.intrinsics import height, padded_columns, pointer, pointer_at, size
from fastbp.backends.cuda.language import (
    barrier,
    offset,
    quotient,
    remainder,
    shared_memory,
    thread,
)
from fastbp.backends.cuda.product import whole_parts
from fastbp.backends.cuda.tuning import THREADS
from fastbp.shuffle import permute

__all__ = ["gather_inputs", "multiply_cotangent", "order_rows", "store_rows"]

POSITION, DATA_ROWS = int(Batch.POSITION), int(Batch.DATA_ROWS)
SHUFFLE, BITS = int(Batch.SHUFFLE), int(Batch.BITS)


def order_rows(real, integer):
    """row_index[i] = data row at the position of row i of the segment, for the rows of a block.

    Here `row_index` begins at the segment's first row, and every block works out its own.
    """

    def order_rows(arguments, first, last, part, place):
        row_index = pointer(arguments, 0, integer)
        keys = pointer(arguments, 1, integer)
        batch = pointer(arguments, 2, integer)
        begin, rows = batch[POSITION], batch[DATA_ROWS]
        if batch[SHUFFLE] != 0:
            bits = batch[BITS]
            for i in range(first + thread(), last, THREADS):
                row_index[i] = permute(begin + i, rows, bits, keys)
        else:
            for i in range(first + thread(), last, THREADS):
                row_index[i] = begin + i
        barrier()

    return order_rows


def gather_inputs(real, integer, shape, near):
    """inputs[i] = the data row that stands at the segment's position i."""
    panel, down = shape.columns, THREADS // shape.columns
    _, writes_near = near

    def gather_inputs(arguments, first, last, part, place):
        share, shares = part
        _, target, stride, _ = place
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        data = pointer(arguments, 1, real)
        row_index = pointer(arguments, 2, integer)
        features = size(arguments, 4, 0)
        memory = shared_memory(real)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            inputs = pointer_at(arguments, 0, real, begin * rows_high)
            tile = offset(memory, target + begin)
            for i in range(row, last - first, down):
                if column < width:
                    value = real(0.0)
                    if begin + column < features:
                        value = data[row_index[first + i] * features + begin + column]
                    inputs[(first + i) * width + column] = value
                    if writes_near:
                        tile[i * stride + column] = value
                elif writes_near and column < whole_parts(width):
                    tile[i * stride + column] = real(0.0)
            begin += shares * panel
        barrier()

    return gather_inputs


def multiply_cotangent(real, integer, shape, near):
    """delta *= the cotangents of the same rows, which come in the order of the data."""
    panel, down = shape.columns, THREADS // shape.columns
    _, writes_near = near

    def multiply_cotangent(arguments, first, last, part, place):
        share, shares = part
        _, target, stride, _ = place
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        cotangent = pointer(arguments, 1, real)
        position = pointer(arguments, 2, integer)[POSITION]
        outputs = size(arguments, 3, 0)
        memory = shared_memory(real)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            delta = pointer_at(arguments, 0, real, begin * rows_high)
            tile = offset(memory, target + begin)
            for i in range(row, last - first, down):
                value = real(0.0)
                if begin + column < outputs:
                    at = (first + i) * width + column
                    value = delta[at] * cotangent[(position + first + i) * outputs + begin + column]
                    delta[at] = value
                if writes_near and column < whole_parts(width):
                    tile[i * stride + column] = value
            begin += shares * panel
        barrier()

    return multiply_cotangent


def store_rows(real, integer, shape):
    """data_outputs[position + i] = source[i]."""
    panel, down = shape.columns, THREADS // shape.columns

    def store_rows(arguments, first, last, part, place):
        share, shares = part
        data = pointer(arguments, 0, real)
        rows_high, padded = height(arguments, 1), padded_columns(arguments, 1)
        position = pointer(arguments, 2, integer)[POSITION]
        columns = size(arguments, 3, 0)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            source = pointer_at(arguments, 1, real, begin * rows_high)
            if begin + column < columns:
                for i in range(first + row, last, down):
                    value = source[i * width + column]
                    data[(position + i) * columns + begin + column] = value
            begin += shares * panel
        barrier()

    return store_rows
