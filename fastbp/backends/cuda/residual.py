"""Residual blocks: sums of what went through the layers and what went past them."""

from __future__ import annotations

from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer_at,
    size,
)
from fastbp.backends.cuda.language import barrier, quotient, remainder, thread
from fastbp.backends.cuda.tuning import THREADS

__all__ = ["multiply_delta", "residual_backward", "residual_forward"]


def multiply_delta(real, shape):
    """input_delta *= delta; with `replace`, input_delta = delta."""
    panel, down = shape.columns, THREADS // shape.columns

    def multiply_delta(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        replace = size(arguments, 2, 1)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            target = pointer_at(arguments, 0, real, begin * rows_high)
            delta = pointer_at(arguments, 1, real, begin * rows_high)
            if column < width:
                for i in range(first + row, last, down):
                    at = i * width + column
                    value = delta[at]
                    if replace == 0:
                        value = target[at] * value
                    target[at] = value
            begin += shares * panel
        barrier()

    return multiply_delta


def residual_forward(real, shape):
    """output = inputs + branch; the derivative, which may be absent, is 1."""
    panel, down = shape.columns, THREADS // shape.columns

    def residual_forward(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        has_derivative, columns = is_present(arguments, 1), size(arguments, 4, 0)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            output = pointer_at(arguments, 0, real, begin * rows_high)
            inputs = pointer_at(arguments, 2, real, begin * rows_high)
            branch = pointer_at(arguments, 3, real, begin * rows_high)
            slope = real(1.0) if begin + column < columns else real(0.0)
            if column < width:
                for i in range(first + row, last, down):
                    at = i * width + column
                    output[at] = inputs[at] + branch[at]
                    if has_derivative:
                        pointer_at(arguments, 1, real, begin * rows_high)[at] = slope
            begin += shares * panel
        barrier()

    return residual_forward


def residual_backward(real, shape):
    """input_delta *= delta + branch_delta; with `replace`, input_delta is that sum."""
    panel, down = shape.columns, THREADS // shape.columns

    def residual_backward(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        replace = size(arguments, 3, 1)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            target = pointer_at(arguments, 0, real, begin * rows_high)
            delta = pointer_at(arguments, 1, real, begin * rows_high)
            branch = pointer_at(arguments, 2, real, begin * rows_high)
            if column < width:
                for i in range(first + row, last, down):
                    at = i * width + column
                    value = delta[at] + branch[at]
                    if replace == 0:
                        value = target[at] * value
                    target[at] = value
            begin += shares * panel
        barrier()

    return residual_backward
