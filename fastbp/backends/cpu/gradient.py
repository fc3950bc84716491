"""Gradients of the parameters: kernels that keep them, and the pieces that the update shares.

A tile is a run of rows of one panel. It is worked through in groups of rows, one panel of the
inputs high, because that is how far the inputs' own panels reach; each group is complete in the
first-level cache before the next one begins.
"""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.elementwise import map_elements
from fastbp.backends.cpu.intrinsics import (
    call_product,
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    product_for,
    size,
    stack_array,
    vector,
)
from fastbp.backends.cpu.panels import panel_width
from fastbp.backends.cpu.reductions import (
    add_columns,
    scale_and_square,
    sum_of_magnitudes,
    sum_of_squares,
)
from fastbp.backends.cpu.tuning import GRADIENT_DEPTH, PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES
from fastbp.elementary import constant

__all__ = ["dense_bias_gradient", "dense_weight_gradient"]

ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)


@register_jitable(forceinline=True)
def penalized(gradient, parameter, l1, l2):
    zero = constant(0.0, parameter)
    pull = l1 if parameter > zero else (-l1 if parameter < zero else zero)
    return (gradient + l2 * parameter + pull,)


@register_jitable(forceinline=True)
def add_bias_gradient(gradient, delta, between, rows, begin, end, panel):
    """gradient[j] += sum of delta's column j, for the padded columns begin <= j < end."""
    column = begin
    while column < end:
        target, source = offset(gradient, column), offset(delta, column // panel * between)
        left = (end - column) * PANEL_LINES // panel
        if left >= 2 * PANEL_LINES:
            add_columns(target, source, between, rows, 2, 4)
            column += 2 * panel
        elif left >= PANEL_LINES:
            add_columns(target, source, between, rows, 1, 4)
            column += panel
        elif left == 3:
            add_columns(target, source, between, rows, 1, 3)
            column = end
        elif left == 2:
            add_columns(target, source, between, rows, 1, 2)
            column = end
        else:
            add_columns(target, source, between, rows, 1, 1)
            column = end


@register_jitable(forceinline=True)
def multiply_transposed(
    product,
    target,
    start,
    start_stride,
    inputs,
    height,
    padded,
    first,
    rows,
    delta,
    width,
    depth,
    lanes,
):
    """target = start + sum over i of inputs[i, r] delta[i, j], rows 0 <= i < depth of a batch.

    The columns first <= r < first + rows are of one panel of `inputs`, which is `height` rows high
    and `padded` columns wide; `target` and `delta`, a panel, are `width` wide. A few rows of the
    batch at a time: their panels, and the sums, stay in the first-level cache.
    """
    shift = first % (PANEL_LINES * lanes)
    column = first - shift  # where the panel begins
    inputs_width = panel_width(padded, column, lanes)
    inputs = offset(inputs, column * height + shift)
    for i in range(0, depth, GRADIENT_DEPTH):
        call_product(
            product,
            target,
            start,
            start_stride,
            offset(inputs, i * inputs_width),
            1,
            inputs_width,
            GRADIENT_DEPTH,
            0,
            rows,
            offset(delta, i * width),
            min(GRADIENT_DEPTH, depth - i),
        )
        start, start_stride = target, width


@register_jitable(forceinline=True)
def penalty_of(gradient, parameter, l1, l2, lines):
    """Add the gradient of the penalties; return the penalties' value."""
    map_elements(penalized, (gradient, parameter), (l1, l2), (gradient,), lines)
    squares, magnitudes = sum_of_squares(parameter, lines), sum_of_magnitudes(parameter, lines)
    return 0.5 * types.float64(l2) * squares + types.float64(l1) * magnitudes


@register_jitable
def tile_number(first, rows_high, tile_rows, first_tile):
    """Which tile of the plan begins at a row of the panels."""
    tiles_of_panel = (rows_high + tile_rows - 1) // tile_rows
    panel, row = first // rows_high, first % rows_high
    return first_tile + panel * tiles_of_panel + row // tile_rows


def dense_weight_gradient(real):
    """gradient += inputs.T @ delta, from zero in the first segment of a batch.

    In the last segment the sum is divided by the sum of the sample weights, the penalties' gradient
    is added, and the tile's squared norm and its part of the penalty are left for the reduction.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def dense_weight_gradient(arguments, first, last):
        gradient, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        parameter = pointer(arguments, 3, real)
        penalties = pointer(arguments, 4, types.float64)
        inputs, batch_height = pointer(arguments, 5, real), height(arguments, 5)
        inputs_padded = padded_columns(arguments, 5)
        delta = pointer(arguments, 6, real)
        scale = real(pointer(arguments, 7, types.float64)[GRADIENT_SCALE])
        batch = pointer(arguments, 8, types.int64)
        tile_rows, first_tile = size(arguments, 9, 0), size(arguments, 9, 1)
        wanted = is_present(arguments, 1)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        column = first // rows_high * panel
        row = first % rows_high
        width = panel_width(padded, column, lanes)
        product = product_for(arguments, 9, 2, width, lanes)
        norm = 0.0
        penalty = 0.0
        i, end = row, row + last - first
        while i < end:
            rows = min(panel - i % panel, end - i)
            place = column * rows_high + i * width
            target = offset(gradient, place)
            begins = batch[BEGINS] != 0
            multiply_transposed(
                product,
                target,
                nothing if begins else target,
                0 if begins else width,
                inputs,
                batch_height,
                inputs_padded,
                i,
                rows,
                offset(delta, column * batch_height),
                width,
                batch[ROWS],
                lanes,
            )
            if batch[ENDS] != 0:
                lines = rows * width // lanes
                squares = scale_and_square(target, lines, scale)
                if wanted:
                    l1, l2 = real(penalties[0]), real(penalties[1])
                    if l1 != real(0.0) or l2 != real(0.0):
                        penalty += penalty_of(target, offset(parameter, place), l1, l2, lines)
                        squares = sum_of_squares(target, lines)
                    norm += squares
            i += rows
        if wanted and batch[ENDS] != 0:
            tile = tile_number(first, rows_high, tile_rows, first_tile)
            pointer(arguments, 1, types.float64)[tile] = norm
            pointer(arguments, 2, types.float64)[tile] = penalty

    return dense_weight_gradient


def dense_bias_gradient(real):
    """gradient += sum of delta over the rows, from zero in the first segment of a batch.

    In the last segment as `dense_weight_gradient`, without penalties.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def dense_bias_gradient(arguments, first, last):
        gradient, padded = pointer(arguments, 0, real), padded_columns(arguments, 0)
        delta, batch_height = pointer(arguments, 3, real), height(arguments, 3)
        batch = vector(arguments, 5, types.int64)
        tile_rows, first_tile = size(arguments, 6, 0), size(arguments, 6, 1)
        begin, end = first * panel, min(last * panel, padded)
        if batch[BEGINS] != 0:
            for j in range(begin, end):
                gradient[j] = real(0.0)
        add_bias_gradient(gradient, delta, batch_height * panel, batch[ROWS], begin, end, panel)
        if batch[ENDS] == 0:
            return
        lines = (end - begin) // lanes
        target = offset(gradient, begin)
        scale = real(vector(arguments, 4, types.float64)[GRADIENT_SCALE])
        squares = scale_and_square(target, lines, scale)
        if is_present(arguments, 1):
            tile = first_tile + first // tile_rows
            vector(arguments, 1, types.float64)[tile] = squares
            vector(arguments, 2, types.float64)[tile] = 0.0

    return dense_bias_gradient
