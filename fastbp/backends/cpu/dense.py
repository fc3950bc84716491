"""The dense layer's kernels.

Each goes panel by panel: the product leaves a block of rows in the first-level cache, and the law,
the scale or the penalty is applied there in one run over contiguous memory, padding included; what
it leaves in the padding is set to zero again.
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
    read_tuple,
    size,
    stack_array,
    vector,
)
from fastbp.backends.cpu.panels import clear_padding, multiply_panels, panel_width
from fastbp.backends.cpu.reductions import (
    add_columns,
    sum_of_magnitudes,
    sum_of_squares,
    thin_product,
)
from fastbp.backends.cpu.tuning import BLOCK_ROWS
from fastbp.backends.cpu.vectors import LINE_BYTES
from fastbp.elementary import constant

__all__ = [
    "dense_backward_data",
    "dense_bias_gradient",
    "dense_forward",
    "dense_weight_gradient",
]

ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)


def dense_forward(real, sources, law, setting_count):
    """output, derivative = law(inputs @ weight + bias); the derivative may be absent.

    A thin layer has its weight as (units, features).
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes
    block = BLOCK_ROWS * panel

    def dense_forward(arguments, first_row, last_row):
        sources  # noqa: B018
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        derivative, has_derivative = pointer(arguments, 1, real), is_present(arguments, 1)
        inputs, inputs_padded = pointer(arguments, 2, real), padded_columns(arguments, 2)
        weight, bias = pointer(arguments, 3, real), pointer(arguments, 4, real)
        settings = read_tuple(pointer(arguments, 5, real), 1, setting_count)
        features, units = size(arguments, 6, 0), size(arguments, 6, 1)
        thin, product = size(arguments, 6, 2), size(arguments, 6, 3)
        unwanted = stack_array(block, real)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            for row in range(first_row, last_row, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, last_row - row)
                place = column * rows_high + row * width
                target = offset(output, place)
                if thin != 0:
                    sizes = (row, rows, rows_high, units, inputs_padded)
                    thin_product(target, bias, inputs, weight, sizes)
                else:
                    multiply_panels(
                        product,
                        target,
                        width,
                        offset(bias, column),
                        0,
                        inputs,
                        rows_high,
                        features,
                        inputs_padded,
                        row,
                        rows,
                        offset(weight, column * features),
                        lanes,
                    )
                slopes = offset(derivative, place) if has_derivative else unwanted
                lines = rows * width // lanes
                map_elements(law, (target,), (settings,), (target, slopes), lines)
                if column + width > units:
                    clear_padding(target, rows, width, units - column)
                    clear_padding(slopes, rows, width, units - column)

    return dense_forward


@register_jitable(forceinline=True)
def multiplied(a, b):
    return (a * b,)


def dense_backward_data(real, sources):
    """input_delta *= delta @ weight.T: the derivative that forward left there meets its delta.

    With `replace`, input_delta = delta @ weight.T: the inputs of a network have no derivative.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes
    block = BLOCK_ROWS * panel

    def dense_backward_data(arguments, first_row, last_row):
        sources  # noqa: B018
        input_delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        delta, delta_padded = pointer(arguments, 1, real), padded_columns(arguments, 1)
        weight = pointer(arguments, 2, real)
        units, replace = size(arguments, 3, 1), size(arguments, 3, 2)
        product = size(arguments, 3, 3)
        scratch = stack_array(block, real)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            for row in range(first_row, last_row, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, last_row - row)
                target = offset(input_delta, column * rows_high + row * width)
                multiply_panels(
                    product,
                    target if replace != 0 else scratch,
                    width,
                    nothing,
                    0,
                    delta,
                    rows_high,
                    units,
                    delta_padded,
                    row,
                    rows,
                    offset(weight, column * units),
                    lanes,
                )
                if replace == 0:
                    lines = rows * width // lanes
                    map_elements(multiplied, (target, scratch), (), (target,), lines)

    return dense_backward_data


@register_jitable(forceinline=True)
def penalized(gradient, parameter, l1, l2):
    zero = constant(0.0, parameter)
    pull = l1 if parameter > zero else (-l1 if parameter < zero else zero)
    return (gradient + l2 * parameter + pull,)


@register_jitable
def tile_number(first, rows_high, tile_rows, first_tile):
    """Which tile of the plan begins at a row of the panels."""
    tiles_of_panel = (rows_high + tile_rows - 1) // tile_rows
    panel, row = first // rows_high, first % rows_high
    return first_tile + panel * tiles_of_panel + row // tile_rows


def dense_weight_gradient(real, sources):
    """gradient += inputs.T @ delta, from zero in the first segment of a batch.

    In the last segment the sum is divided by the sum of the sample weights, the penalties' gradient
    is added, and the tile's squared norm and its part of the penalty are left for the reduction.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def dense_weight_gradient(arguments, first, last):
        sources  # noqa: B018
        gradient, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        inputs, batch_height = pointer(arguments, 5, real), height(arguments, 5)
        inputs_padded = padded_columns(arguments, 5)
        delta = pointer(arguments, 6, real)
        batch = vector(arguments, 8, types.int64)
        tile_rows, first_tile = size(arguments, 9, 0), size(arguments, 9, 1)
        product = size(arguments, 9, 2)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        column = first // rows_high * panel
        row = first % rows_high
        width = panel_width(padded, column, lanes)
        place = column * rows_high + row * width
        for i in range(row, row + last - first, panel):
            target = offset(gradient, column * rows_high + i * width)
            call_product(
                product,
                target,
                width,
                nothing if batch[BEGINS] != 0 else target,
                0 if batch[BEGINS] != 0 else width,
                offset(inputs, i * batch_height),
                1,
                panel_width(inputs_padded, i, lanes),
                batch[ROWS],
                0,
                min(panel, row + last - first - i),
                offset(delta, column * batch_height),
                width,
                batch[ROWS],
                width,
            )
        if batch[ENDS] == 0:
            return
        target = offset(gradient, place)
        lines = (last - first) * width // lanes
        scale = real(vector(arguments, 7, types.float64)[GRADIENT_SCALE])
        map_elements(multiplied, (target,), (scale,), (target,), lines)
        if not is_present(arguments, 1):
            return
        penalties = vector(arguments, 4, types.float64)
        l1, l2 = penalties[0], penalties[1]
        penalty = 0.0
        if l1 != 0.0 or l2 != 0.0:
            parameter = offset(pointer(arguments, 3, real), place)
            rates = (real(l1), real(l2))
            map_elements(penalized, (target, parameter), rates, (target,), lines)
            penalty = 0.5 * l2 * sum_of_squares(parameter, lines)
            penalty += l1 * sum_of_magnitudes(parameter, lines)
        tile = tile_number(first, rows_high, tile_rows, first_tile)
        vector(arguments, 1, types.float64)[tile] = sum_of_squares(target, lines)
        vector(arguments, 2, types.float64)[tile] = penalty

    return dense_weight_gradient


def dense_bias_gradient(real, sources):
    """gradient += sum of delta over the rows, from zero in the first segment of a batch.

    In the last segment as `dense_weight_gradient`, without penalties.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def dense_bias_gradient(arguments, first, last):
        sources  # noqa: B018
        gradient, padded = pointer(arguments, 0, real), padded_columns(arguments, 0)
        delta, batch_height = pointer(arguments, 3, real), height(arguments, 3)
        batch = vector(arguments, 5, types.int64)
        tile_rows, first_tile = size(arguments, 6, 0), size(arguments, 6, 1)
        begin, end = first * panel, min(last * panel, padded)
        if batch[BEGINS] != 0:
            for j in range(begin, end):
                gradient[j] = real(0.0)
        column = begin
        rows, between = batch[ROWS], batch_height * panel
        while column < end:
            target, source = offset(gradient, column), offset(delta, column * batch_height)
            if end - column >= 4 * panel:
                add_columns(target, source, between, rows, 4, 2)
                column += 4 * panel
            elif end - column >= 2 * panel:
                add_columns(target, source, between, rows, 2, 2)
                column += 2 * panel
            elif end - column >= panel:
                add_columns(target, source, between, rows, 1, 2)
                column += panel
            else:
                add_columns(target, source, between, rows, 1, 1)
                column += lanes
        if batch[ENDS] == 0:
            return
        lines = (end - begin) // lanes
        target = offset(gradient, begin)
        scale = real(vector(arguments, 4, types.float64)[GRADIENT_SCALE])
        map_elements(multiplied, (target,), (scale,), (target,), lines)
        if is_present(arguments, 1):
            tile = first_tile + first // tile_rows
            vector(arguments, 1, types.float64)[tile] = sum_of_squares(target, lines)
            vector(arguments, 2, types.float64)[tile] = 0.0

    return dense_bias_gradient
