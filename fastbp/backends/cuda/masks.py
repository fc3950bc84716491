"""Dropout: the masks of `fastbp.masks`, and what they do to the values of rows."""

from __future__ import annotations

from fastbp.backends.contract import Batch
from fastbp.backends.cuda.intrinsics import height, padded_columns, pointer, pointer_at, size
from fastbp.backends.cuda.language import barrier, quotient, remainder, thread
from fastbp.backends.cuda.tuning import THREADS
from fastbp.masks import mask_word, row_key

__all__ = ["dropout_forward"]

POSITION = int(Batch.POSITION)


def dropout_forward(real, integer, shape):
    """derivative = scale where a value is kept, else 0; output = inputs * derivative."""
    panel, down = shape.columns, THREADS // shape.columns

    def dropout_forward(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        keys = pointer(arguments, 3, integer)
        position = pointer(arguments, 4, integer)[POSITION]
        scale = pointer(arguments, 5, real)[0]
        columns, layer = size(arguments, 6, 0), size(arguments, 6, 1)
        threshold = size(arguments, 6, 2)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        for i in range(first + row, last, down):
            key = row_key(position + i, layer, keys)
            begin = share * panel
            while begin < padded:
                width = min(panel, padded - begin)
                if column < width:
                    at = begin * rows_high + i * width + column
                    slope = real(0.0)
                    if begin + column < columns and mask_word(begin + column, key) >= threshold:
                        slope = scale
                    value = pointer_at(arguments, 2, real, at)[0]
                    pointer_at(arguments, 1, real, at)[0] = slope
                    pointer_at(arguments, 0, real, at)[0] = value * slope
                begin += shares * panel
        barrier()

    return dropout_forward
