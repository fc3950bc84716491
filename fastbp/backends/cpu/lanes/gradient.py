"""Gradients of the parameters for rows in lanes: sums within the lanes, then over them."""

from __future__ import annotations

from numba import types

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.gradient import penalty_of, tile_number
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    size,
)
from fastbp.backends.cpu.lanes.operations import add_lanes, multiply_lanes
from fastbp.backends.cpu.panels import clear_padding, panel_width
from fastbp.backends.cpu.reductions import scale_and_square, sum_of_squares
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["dense_bias_gradient_in_lanes", "dense_weight_gradient_in_lanes"]

ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)


def dense_weight_gradient_in_lanes(real, high, wide):
    """gradient += inputs @ delta.T, from zero in the first segment of a batch.

    In the last segment as `dense_weight_gradient`. `high` and `wide` are the shape of a tile.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def dense_weight_gradient_in_lanes(arguments, first, last):
        features, padded = height(arguments, 0), padded_columns(arguments, 0)
        inputs, batch_padded = pointer(arguments, 5, real), padded_columns(arguments, 5)
        delta, units = pointer(arguments, 6, real), height(arguments, 6)
        batch = pointer(arguments, 8, types.int64)
        column, row = first // features * panel, first % features
        width = panel_width(padded, column, lanes)
        place = column * features + row * width
        target = offset(pointer(arguments, 0, real), place)
        multiply_lanes(
            target,
            width,
            inputs,
            delta,
            (row, last - first, column, min(width, units - column)),
            (features, units, batch[ROWS], batch_padded),
            batch[BEGINS] != 0,
            high,
            wide,
        )
        if batch[ENDS] == 0:
            return
        if column + width > units:
            clear_padding(target, last - first, width, units - column)
        lines = (last - first) * width // lanes
        scale = real(pointer(arguments, 7, types.float64)[GRADIENT_SCALE])
        norm = scale_and_square(target, lines, scale)
        if not is_present(arguments, 1):
            return
        penalties = pointer(arguments, 4, types.float64)
        l1, l2 = real(penalties[0]), real(penalties[1])
        penalty = 0.0
        if l1 != real(0.0) or l2 != real(0.0):
            parameter = offset(pointer(arguments, 3, real), place)
            penalty = penalty_of(target, parameter, l1, l2, lines)
            norm = sum_of_squares(target, lines)
        tile = tile_number(first, features, size(arguments, 9, 0), size(arguments, 9, 1))
        pointer(arguments, 1, types.float64)[tile] = norm
        pointer(arguments, 2, types.float64)[tile] = penalty

    return dense_weight_gradient_in_lanes


def dense_bias_gradient_in_lanes(real):
    """gradient += sum of delta over the rows, from zero in the first segment of a batch.

    In the last segment as `dense_bias_gradient`.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def dense_bias_gradient_in_lanes(arguments, first, last):
        padded = padded_columns(arguments, 0)
        delta, units = pointer(arguments, 3, real), height(arguments, 3)
        batch_padded = padded_columns(arguments, 3)
        batch = pointer(arguments, 5, types.int64)
        begin, end = first * panel, min(last * panel, padded)
        target = offset(pointer(arguments, 0, real), begin)
        add_lanes(
            target,
            delta,
            (begin, min(last * panel, units) - begin),
            (units, batch[ROWS], batch_padded),
            batch[BEGINS] != 0,
        )
        if batch[ENDS] == 0:
            return
        if end > units:
            clear_padding(target, 1, end - begin, units - begin)
        lines = (end - begin) // lanes
        scale = real(pointer(arguments, 4, types.float64)[GRADIENT_SCALE])
        squares = scale_and_square(target, lines, scale)
        if is_present(arguments, 1):
            tile = size(arguments, 6, 1) + first // size(arguments, 6, 0)
            pointer(arguments, 1, types.float64)[tile] = squares
            pointer(arguments, 2, types.float64)[tile] = 0.0

    return dense_bias_gradient_in_lanes
