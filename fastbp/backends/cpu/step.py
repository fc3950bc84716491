"""Gradient and update of a parameter in one kernel: what an ordinary step of training runs.

The gradient of a group of rows never leaves the first-level cache: it is computed into a few
kilobytes on the stack, the penalties and the optimizer's law are applied, and the changed
parameters are written in both layouts. Where all gradients must be known before the first update
(clipping by their norm) or a batch comes in several segments, the kernels of `gradient` and
`update` do the same in two steps.
"""

from __future__ import annotations

import math

from numba import types

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.elementwise import map_elements
from fastbp.backends.cpu.gradient import (
    add_bias_gradient,
    multiply_transposed,
    penalty_of,
    tile_number,
)
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    pointer_tuple,
    product_for,
    read_tuple,
    size,
    stack_array,
)
from fastbp.backends.cpu.panels import clear_padding, panel_width
from fastbp.backends.cpu.reductions import scale_and_square, sum_of_squares
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.update import clipped, transpose_rows
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["dense_step"]

ROWS = int(Batch.ROWS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)


def dense_step(real, law, slot_count, coefficient_count):
    """parameter, slots = law(parameter, gradient + penalties, slots), gradient = inputs.T @ delta.

    Without `inputs` the parameter is a bias, whose gradient is the sum of delta over the rows.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = panel * panel

    def dense_step(arguments, first, last):
        parameters, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        slots = pointer(arguments, 1, real)
        transposed, has_transposed = pointer(arguments, 2, real), is_present(arguments, 2)
        penalties = pointer(arguments, 5, types.float64)
        inputs, is_weight = pointer(arguments, 6, real), is_present(arguments, 6)
        delta, batch_height = pointer(arguments, 7, real), height(arguments, 7)
        scale = real(pointer(arguments, 8, types.float64)[GRADIENT_SCALE])
        depth = pointer(arguments, 9, types.int64)[ROWS]
        coefficients = read_tuple(pointer(arguments, 10, real), 1, coefficient_count)
        bound = pointer(arguments, 11, real)[0]
        columns = size(arguments, 12, 0)
        tile_rows, first_tile = size(arguments, 12, 1), size(arguments, 12, 2)
        gradient = stack_array(block, real)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        l1, l2 = real(0.0), real(0.0)
        column, row = first * panel, 0
        if is_weight:
            l1, l2 = real(penalties[0]), real(penalties[1])
            column, row = first // rows_high * panel, first % rows_high
        norm = 0.0
        penalty = 0.0
        end = row + last - first
        while row < end:
            # A group: one panel of the inputs high; of a bias, as many panels as fit.
            rows = min(panel - row % panel, end - row)
            width = panel_width(padded, column, lanes)
            place = column * rows_high + row * width
            count = rows * width
            if not is_weight:
                place = column
                count = min(rows * panel, padded - column)
            lines = count // lanes
            parameter, running = offset(parameters, place), offset(slots, place)
            if is_weight:
                multiply_transposed(
                    product_for(arguments, 12, 3, width, lanes),
                    gradient,
                    nothing,
                    0,
                    inputs,
                    batch_height,
                    padded_columns(arguments, 6),
                    row,
                    rows,
                    offset(delta, column * batch_height),
                    width,
                    depth,
                    lanes,
                )
            else:
                for j in range(count):
                    gradient[j] = real(0.0)
                between = batch_height * panel
                source = offset(delta, column * batch_height)
                add_bias_gradient(gradient, source, between, depth, 0, count, panel)
            squares = scale_and_square(gradient, lines, scale)
            if l1 != real(0.0) or l2 != real(0.0):
                penalty += penalty_of(gradient, parameter, l1, l2, lines)
                squares = sum_of_squares(gradient, lines)
            norm += squares
            if bound < real(math.inf):
                map_elements(clipped, (gradient,), (real(1.0), bound), (gradient,), lines)
            state = pointer_tuple(running, rows_high * padded, slot_count)
            map_elements(
                law,
                (parameter, gradient, state),
                (coefficients, real(1.0) if is_weight else real(0.0)),
                (parameter, state),
                lines,
            )
            if is_weight:
                if column + width > columns:
                    clear_padding(parameter, rows, width, columns - column)
                if has_transposed:
                    transpose_rows(
                        transposed,
                        columns,
                        padded_columns(arguments, 2),
                        parameter,
                        width,
                        row,
                        rows,
                        column,
                        rows_high,
                        lanes,
                    )
            else:
                if column + count > columns:
                    clear_padding(parameter, 1, count, columns - column)
                column += count
            row += rows
        tile = first_tile + first // tile_rows
        if is_weight:
            tile = tile_number(first, rows_high, tile_rows, first_tile)
        pointer(arguments, 3, types.float64)[tile] = norm
        pointer(arguments, 4, types.float64)[tile] = penalty

    return dense_step
