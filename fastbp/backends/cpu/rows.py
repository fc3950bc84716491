"""Kernels that move rows between the caller's arrays and the slabs."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp import shuffle
from fastbp.backends.contract import Batch
from fastbp.backends.cpu.intrinsics import matrix, size, vector

__all__ = ["gather_inputs", "multiply_cotangent", "store_rows"]

permute = register_jitable(shuffle.permute)
POSITION, DATA_ROWS = int(Batch.POSITION), int(Batch.DATA_ROWS)
SHUFFLE, BITS = int(Batch.SHUFFLE), int(Batch.BITS)


def gather_inputs(real, sources):
    """inputs[i] = data_inputs[r] and row_index[i] = r, r the data row at the batch's position i."""

    def gather_inputs(arguments, first_row, last_row):
        sources  # noqa: B018
        inputs = matrix(arguments, 0, real)
        row_index = vector(arguments, 1, types.int64)
        data = matrix(arguments, 2, real)
        keys = vector(arguments, 3, types.int64)
        batch = vector(arguments, 4, types.int64)
        features = size(arguments, 5, 0)
        for i in range(first_row, last_row):
            row = batch[POSITION] + i
            if batch[SHUFFLE] != 0:
                row = permute(row, batch[DATA_ROWS], batch[BITS], keys)
            row_index[i] = row
            target, source = inputs[i, :features], data[row, :features]
            for j in range(target.size):
                target[j] = source[j]

    return gather_inputs


def multiply_cotangent(real, sources):
    """delta *= the cotangents of the same rows."""

    def multiply_cotangent(arguments, first_row, last_row):
        sources  # noqa: B018
        delta = matrix(arguments, 0, real)
        cotangent = matrix(arguments, 1, real)
        row_index = vector(arguments, 2, types.int64)
        outputs = size(arguments, 3, 0)
        for i in range(first_row, last_row):
            for j in range(outputs):
                delta[i, j] *= cotangent[row_index[i], j]

    return multiply_cotangent


def store_rows(real, sources):
    """data_outputs[position + i] = source[i]."""

    def store_rows(arguments, first_row, last_row):
        sources  # noqa: B018
        data = matrix(arguments, 0, real)
        source = matrix(arguments, 1, real)
        position = vector(arguments, 2, types.int64)[POSITION]
        columns = size(arguments, 3, 0)
        for i in range(first_row, last_row):
            for j in range(columns):
                data[position + i, j] = source[i, j]

    return store_rows
