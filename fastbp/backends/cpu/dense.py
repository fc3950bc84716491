"""The dense layer's kernels.

Each works tile by tile: fill the tile with the start of the sum (the bias, or zero), add the matrix
product, and finish the tile while it is in the first-level cache (activation, derivative, scale).
Tiles read whole padded rows and store true columns only, so padding never reaches a result.
"""

from __future__ import annotations

from numba import types

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.intrinsics import (
    call_product,
    leading_dimension,
    matrix,
    offset,
    pointer,
    read_tuple,
    size,
    stack_array,
    vector,
)
from fastbp.backends.cpu.tuning import PRODUCT_COLUMNS, PRODUCT_ROWS

__all__ = [
    "dense_backward_data",
    "dense_bias_gradient",
    "dense_forward",
    "dense_weight_gradient",
]

TILE = PRODUCT_ROWS * PRODUCT_COLUMNS
ROWS = int(Batch.ROWS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)


def dense_forward(real, sources, law, setting_count):
    """output, derivative = law(inputs @ weight + bias); the derivative may be absent."""

    def dense_forward(arguments, first_row, last_row):
        sources  # noqa: B018
        output = matrix(arguments, 0, real)
        derivative = matrix(arguments, 1, real)
        inputs, inputs_stride = pointer(arguments, 2, real), leading_dimension(arguments, 2)
        weight, weight_stride = pointer(arguments, 3, real), leading_dimension(arguments, 3)
        bias = pointer(arguments, 4, real)
        settings = read_tuple(pointer(arguments, 5, real), 1, setting_count)
        features, units = size(arguments, 6, 0), size(arguments, 6, 1)
        product = size(arguments, 6, 2)
        tile = stack_array(TILE, real)
        for row in range(first_row, last_row, PRODUCT_ROWS):
            rows = min(PRODUCT_ROWS, last_row - row)
            for column in range(0, units, PRODUCT_COLUMNS):
                last_column = min(column + PRODUCT_COLUMNS, units)
                columns = min(PRODUCT_COLUMNS, weight_stride - column)
                for i in range(rows):
                    for j in range(columns):
                        tile[i * PRODUCT_COLUMNS + j] = bias[column + j]
                call_product(
                    product,
                    tile,
                    offset(inputs, row * inputs_stride),
                    inputs_stride,
                    1,
                    rows,
                    offset(weight, column),
                    weight_stride,
                    features,
                    columns,
                )
                for i in range(rows):
                    values = output[row + i, column:last_column]
                    sums = offset(tile, i * PRODUCT_COLUMNS)
                    if derivative.shape[0] > 0:
                        slopes = derivative[row + i, column:last_column]
                        for j in range(values.size):
                            value, slope = law(sums[j], settings)
                            values[j] = value
                            slopes[j] = slope
                    else:
                        for j in range(values.size):
                            value, _ = law(sums[j], settings)
                            values[j] = value

    return dense_forward


def dense_backward_data(real, sources):
    """input_delta *= delta @ weight.T: the derivative that forward left there meets its delta.

    With `replace`, input_delta = delta @ weight.T: the inputs of a network have no derivative.
    """

    def dense_backward_data(arguments, first_row, last_row):
        sources  # noqa: B018
        input_delta = matrix(arguments, 0, real)
        delta, delta_stride = pointer(arguments, 1, real), leading_dimension(arguments, 1)
        weight, weight_stride = pointer(arguments, 2, real), leading_dimension(arguments, 2)
        features, units = size(arguments, 3, 0), size(arguments, 3, 1)
        replace, product = size(arguments, 3, 2), size(arguments, 3, 3)
        tile = stack_array(TILE, real)
        for row in range(first_row, last_row, PRODUCT_ROWS):
            rows = min(PRODUCT_ROWS, last_row - row)
            for column in range(0, features, PRODUCT_COLUMNS):
                for i in range(TILE):
                    tile[i] = real(0.0)
                call_product(
                    product,
                    tile,
                    offset(delta, row * delta_stride),
                    delta_stride,
                    1,
                    rows,
                    offset(weight, column),
                    weight_stride,
                    units,
                    min(PRODUCT_COLUMNS, weight_stride - column),
                )
                for i in range(rows):
                    values = input_delta[row + i, column : min(column + PRODUCT_COLUMNS, features)]
                    sums = offset(tile, i * PRODUCT_COLUMNS)
                    for j in range(values.size):
                        values[j] = sums[j] if replace != 0 else values[j] * sums[j]

    return dense_backward_data


def dense_weight_gradient(real, sources):
    """gradient = inputs.T @ delta / sum of weights, for rows of the weight (its inputs)."""

    def dense_weight_gradient(arguments, first_row, last_row):
        sources  # noqa: B018
        gradient = matrix(arguments, 0, real)
        inputs, inputs_stride = pointer(arguments, 1, real), leading_dimension(arguments, 1)
        delta, delta_stride = pointer(arguments, 2, real), leading_dimension(arguments, 2)
        scale = real(vector(arguments, 3, types.float64)[GRADIENT_SCALE])
        batch_rows = vector(arguments, 4, types.int64)[ROWS]
        units = size(arguments, 5, 0)
        product = size(arguments, 5, 1)
        tile = stack_array(TILE, real)
        for row in range(first_row, last_row, PRODUCT_ROWS):
            rows = min(PRODUCT_ROWS, last_row - row)
            for column in range(0, units, PRODUCT_COLUMNS):
                for i in range(TILE):
                    tile[i] = real(0.0)
                call_product(
                    product,
                    tile,
                    offset(inputs, row),
                    1,
                    inputs_stride,
                    rows,
                    offset(delta, column),
                    delta_stride,
                    batch_rows,
                    min(PRODUCT_COLUMNS, delta_stride - column),
                )
                for i in range(rows):
                    values = gradient[row + i, column : min(column + PRODUCT_COLUMNS, units)]
                    sums = offset(tile, i * PRODUCT_COLUMNS)
                    for j in range(values.size):
                        values[j] = sums[j] * scale

    return dense_weight_gradient


def dense_bias_gradient(real, sources):
    """gradient = sum of delta over the rows of the batch / sum of weights."""

    def dense_bias_gradient(arguments, first_row, last_row):
        sources  # noqa: B018
        gradient = matrix(arguments, 0, real)
        delta = matrix(arguments, 1, real)
        scale = real(vector(arguments, 2, types.float64)[GRADIENT_SCALE])
        batch_rows = vector(arguments, 3, types.int64)[ROWS]
        units = size(arguments, 4, 0)
        for column in range(0, units, PRODUCT_COLUMNS):
            values = gradient[0, column : min(column + PRODUCT_COLUMNS, units)]
            for j in range(values.size):
                values[j] = real(0.0)
            for row in range(batch_rows):
                terms = delta[row, column : min(column + PRODUCT_COLUMNS, units)]
                for j in range(values.size):
                    values[j] += terms[j]
            for j in range(values.size):
                values[j] *= scale

    return dense_bias_gradient
