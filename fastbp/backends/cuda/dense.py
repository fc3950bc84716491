"""The dense layer's kernels of the propagation pass.

A block takes a tile of rows through one panel of the outputs after the other. Where the rows stay
in one block from layer to layer (`near`), the factor of the left is still in shared memory from the
step before, and the result is left there for the next one.
"""

from __future__ import annotations

from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer,
    pointer_at,
    reader,
    size,
)
from fastbp.backends.cuda.language import (
    barrier,
    offset,
    quotient,
    remainder,
    shared_memory,
    thread,
)
from fastbp.backends.cuda.product import whole_parts
from fastbp.backends.cuda.tensor_cores import multiply_rows
from fastbp.backends.cuda.tuning import THREADS

__all__ = ["dense_backward_data", "dense_forward"]


def left_factor(real, is_near):
    """Make a function that says where the left factor of a product is, as the product wants it."""

    def far_rows(arguments, position, first, last, rows, stride):
        matrix, padded = pointer(arguments, position, real), padded_columns(arguments, position)
        return first, last, matrix, height(arguments, 0), padded

    def near_rows(arguments, position, first, last, rows, stride):
        return rows, stride

    return near_rows if is_near else far_rows


def dense_forward(real, law, setting_count, shape, near, precision="float32"):
    """output, derivative = law(inputs @ weight + bias); the derivative may be absent."""
    panel, down = shape.columns, THREADS // shape.columns
    reads_near, writes_near = near
    left_of = left_factor(real, reads_near)
    multiply = multiply_rows(real, shape, reads_near, precision)
    settings_of = reader(setting_count)

    def dense_forward(arguments, first, last, part, place):
        share, shares = part
        source, target, stride, staging = place
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        features, units = size(arguments, 6, 0), size(arguments, 6, 1)
        memory = shared_memory(real)
        settings = settings_of(pointer(arguments, 5, real), 1)
        bias = pointer(arguments, 4, real)
        has_derivative = is_present(arguments, 1)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            weight = pointer_at(arguments, 3, real, begin * features)
            left = left_of(arguments, 2, first, last, offset(memory, source), stride)
            if writes_near:
                tile, apart = offset(memory, target + begin), stride
            else:
                tile, apart = offset(memory, staging), panel
            multiply(tile, apart, left, (weight, width), features, offset(memory, staging))
            output = pointer_at(arguments, 0, real, begin * rows_high)
            derivative = pointer_at(arguments, 1, real, begin * rows_high)
            for i in range(row, last - first, down):
                at = (first + i) * width + column
                if column < width:
                    value, slope = law(tile[i * apart + column] + bias[begin + column], settings)
                    if begin + column >= units:
                        value, slope = real(0.0), real(0.0)
                    output[at] = value
                    if has_derivative:
                        derivative[at] = slope
                    if writes_near:
                        tile[i * apart + column] = value
                elif writes_near and column < whole_parts(width):
                    tile[i * apart + column] = real(0.0)
            barrier()
            begin += shares * panel

    return dense_forward


def dense_backward_data(real, shape, near, precision="float32"):
    """input_delta *= delta @ weight.T: the derivative that forward left there meets its delta.

    With `replace`, input_delta = delta @ weight.T: the inputs of a network have no derivative.
    """
    panel, down = shape.columns, THREADS // shape.columns
    reads_near, writes_near = near
    left_of = left_factor(real, reads_near)
    multiply = multiply_rows(real, shape, reads_near, precision)

    def dense_backward_data(arguments, first, last, part, place):
        share, shares = part
        source, target, stride, staging = place
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        units, replace = size(arguments, 3, 1), size(arguments, 3, 2)
        memory = shared_memory(real)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin = share * panel
        while begin < padded:
            width = min(panel, padded - begin)
            weight = pointer_at(arguments, 2, real, begin * units)
            left = left_of(arguments, 1, first, last, offset(memory, source), stride)
            if writes_near:
                tile, apart = offset(memory, target + begin), stride
            else:
                tile, apart = offset(memory, staging), panel
            multiply(tile, apart, left, (weight, width), units, offset(memory, staging))
            input_delta = pointer_at(arguments, 0, real, begin * rows_high)
            for i in range(row, last - first, down):
                at = (first + i) * width + column
                if column < width:
                    value = tile[i * apart + column]
                    if replace == 0:
                        value *= input_delta[at]
                    input_delta[at] = value
                    if writes_near:
                        tile[i * apart + column] = value
                elif writes_near and column < whole_parts(width):
                    tile[i * apart + column] = real(0.0)
            barrier()
            begin += shares * panel

    return dense_backward_data
