"""Gradient and update of a parameter in one kernel: what an ordinary step of training runs.

The gradient of a group of rows never leaves the first-level cache: it is computed into a few
kilobytes on the stack, the penalties and the optimizer's law are applied, and the changed
parameters are written in both layouts. A weight of one tile takes its bias along, because a call
costs as much as a small bias. Where all gradients must be known before the first update (clipping
by their norm) or a batch comes in several segments, the kernels of `gradient` and `update` do the
same in two steps.
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

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
from fastbp.backends.cpu.single_row import scaled_outer_product
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.update import clipped, transpose_rows
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["dense_step"]

ROWS = int(Batch.ROWS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)
BIAS = 3  # the tensor arguments where a weight's bias begins


def dense_step(real, law, slot_count, coefficient_count):
    """parameter, slots = law(parameter, gradient + penalties, slots), gradient = inputs.T @ delta.

    Without `inputs` the parameter is a bias, whose gradient is the sum of delta over the rows. With
    `bias`, a weight's bias is changed too, and its sums go to the tile after the weight's; of a
    turned weight it is `inputs` that holds the layer's delta.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = panel * panel

    @register_jitable(forceinline=True)
    def step(arguments, first, last, single):
        # Arguments are read where they are used, or they would wait on the stack.
        rows_high, batch_height = height(arguments, 0), height(arguments, 9)
        is_weight = is_present(arguments, 8)
        depth = pointer(arguments, 11, types.int64)[ROWS]
        scale = real(pointer(arguments, 10, types.float64)[GRADIENT_SCALE])
        columns, tile = size(arguments, 14, 0), size(arguments, 14, 2)
        gradient = stack_array(block, real)
        nothing = stack_array(panel, real)
        one = stack_array(1, real)
        one[0] = real(1.0)
        if not single:
            for j in range(panel):
                nothing[j] = real(0.0)
        l1, l2 = real(0.0), real(0.0)
        position, of_layer, column, row = 0, 9, first * panel, 0
        if is_weight:
            penalties = pointer(arguments, 7, types.float64)
            l1, l2 = real(penalties[0]), real(penalties[1])
            column, row = 0, first
        if first > 0:  # divisions take longer than a small tile
            if is_weight:
                column, row = first // rows_high * panel, first % rows_high
                tile = tile_number(first, rows_high, size(arguments, 14, 1), tile)
            else:
                tile += first // size(arguments, 14, 1)
        end = row + last - first
        while True:  # a parameter, and a weight's bias after it
            norm = 0.0
            penalty = 0.0
            padded = padded_columns(arguments, position)
            while row < end:
                # A group: one panel of the inputs high; of a bias, as many panels as fit.
                rows = min(panel - row % panel, end - row)
                width = panel_width(padded, column, lanes)
                delta = offset(pointer(arguments, of_layer, real), column * batch_height)
                place = column * rows_high + row * width
                count = rows * width
                factors = one
                if is_weight:
                    inputs = pointer(arguments, 8, real)
                    before = row // panel * panel
                    factors = offset(inputs, before * batch_height + row - before)
                else:
                    place = column
                    count = min(rows * panel, padded - column)
                lines = count // lanes
                squares = 0.0
                has_penalty = l1 != real(0.0) or l2 != real(0.0)
                if single:
                    high = rows if is_weight else 1
                    scaled_outer_product(gradient, factors, high, delta, width, scale)
                else:
                    if is_weight:
                        multiply_transposed(
                            product_for(arguments, 14, 4, width, lanes),
                            gradient,
                            nothing,
                            0,
                            pointer(arguments, 8, real),
                            batch_height,
                            padded_columns(arguments, 8),
                            row,
                            rows,
                            delta,
                            width,
                            depth,
                            lanes,
                        )
                    else:
                        for j in range(count):
                            gradient[j] = real(0.0)
                        between = batch_height * panel
                        add_bias_gradient(gradient, delta, between, depth, 0, count, panel)
                    squares = scale_and_square(gradient, lines, scale)
                parameter = offset(pointer(arguments, position, real), place)
                if has_penalty:
                    penalty += penalty_of(gradient, parameter, l1, l2, lines)
                if single or has_penalty:
                    squares = sum_of_squares(gradient, lines)
                norm += squares
                bound = pointer(arguments, 13, real)[0]
                if bound < real(math.inf):
                    map_elements(clipped, (gradient,), (real(1.0), bound), (gradient,), lines)
                running = offset(pointer(arguments, position + 1, real), place)
                elements = height(arguments, position) * padded
                state = pointer_tuple(running, elements, slot_count)
                coefficients = read_tuple(pointer(arguments, 12, real), 1, coefficient_count)
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
                    if is_present(arguments, 2):
                        transpose_rows(
                            pointer(arguments, 2, real),
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
            pointer(arguments, 5, types.float64)[tile] = norm
            pointer(arguments, 6, types.float64)[tile] = penalty
            if not is_weight or not is_present(arguments, BIAS):
                return
            if size(arguments, 14, 3) != 0:
                of_layer, columns = 8, rows_high
            is_weight, position, column, row, end = False, BIAS, 0, 0, 1
            l1, l2, tile = real(0.0), real(0.0), tile + 1

    def dense_step(arguments, first, last):
        # A single row, of which the gradient is an outer product, is compiled for itself: it has
        # no registers to share with all the rest.
        is_single = pointer(arguments, 11, types.int64)[ROWS] == 1
        if is_single and is_present(arguments, 8):
            step(arguments, first, last, True)
        else:
            step(arguments, first, last, False)

    return dense_step
