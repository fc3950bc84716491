"""Kernels that turn gradients into new parameters."""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

from fastbp.backends.contract import Scalar
from fastbp.backends.cpu.elementwise import map_elements
from fastbp.backends.cpu.intrinsics import (
    height,
    offset,
    padded_columns,
    pointer,
    pointer_tuple,
    read_tuple,
    size,
    vector,
    write_tuple,
)
from fastbp.backends.cpu.panels import clear_padding, panel_width, transpose_block
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = [
    "average_parameters",
    "begin_step",
    "reduce_tiles",
    "transpose_weight",
    "update_parameters",
]

STEP, LEARNING_RATE = int(Scalar.STEP), int(Scalar.LEARNING_RATE)
AVERAGE_RATE = int(Scalar.AVERAGE_RATE)
LOSS, NORM, CLIP_SCALE = int(Scalar.LOSS), int(Scalar.NORM), int(Scalar.CLIP_SCALE)


def begin_step(real, law, setting_count, coefficient_count, carry_count):
    """The optimizer's once-a-step law, in float64."""

    def begin_step(arguments, first_row, last_row):
        coefficients = pointer(arguments, 0, real)
        carry = pointer(arguments, 1, types.float64)
        scalars = vector(arguments, 2, types.float64)
        settings = read_tuple(pointer(arguments, 3, types.float64), 1, setting_count)
        values, carried = law(
            scalars[STEP], scalars[LEARNING_RATE], read_tuple(carry, 1, carry_count), settings
        )
        write_tuple(coefficients, 1, values)
        write_tuple(carry, 1, carried)

    return begin_step


def reduce_tiles(real):
    """Sum the tiles in their order: the gradient's norm, and the penalty into the objective."""

    def reduce_tiles(arguments, first_row, last_row):
        scalars = vector(arguments, 0, types.float64)
        tile_norm = vector(arguments, 1, types.float64)
        tile_penalty = vector(arguments, 2, types.float64)
        norm = 0.0
        penalty = 0.0
        for i in range(size(arguments, 3, 0)):
            norm += tile_norm[i]
            penalty += tile_penalty[i]
        scalars[NORM] = math.sqrt(norm)
        scalars[LOSS] += penalty

    return reduce_tiles


@register_jitable(forceinline=True)
def clipped(gradient, scale, bound):
    scaled = gradient * scale
    above = bound if scaled > bound else scaled
    return (-bound if above < -bound else above,)


def update_parameters(real, law, slot_count, coefficient_count):
    """Clip the gradient, where that is asked for, and apply the optimizer's law."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def update_parameters(arguments, first, last):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        coefficients = read_tuple(pointer(arguments, 3, real), 1, coefficient_count)
        bound = pointer(arguments, 4, real)[0]
        scale = real(vector(arguments, 5, types.float64)[CLIP_SCALE])
        columns, is_weight = size(arguments, 6, 0), real(size(arguments, 6, 1))
        for each in range(first // rows_high, (last - 1) // rows_high + 1):
            column = each * panel
            width = panel_width(padded, column, lanes)
            begin = max(first - each * rows_high, 0)
            rows = min(last - each * rows_high, rows_high) - begin
            place = column * rows_high + begin * width
            parameter = offset(pointer(arguments, 0, real), place)
            slots = offset(pointer(arguments, 1, real), place)
            gradient = offset(pointer(arguments, 2, real), place)
            lines = rows * width // lanes
            if scale != real(1.0) or bound < real(math.inf):
                map_elements(clipped, (gradient,), (scale, bound), (gradient,), lines)
            running = pointer_tuple(slots, rows_high * padded, slot_count)
            map_elements(
                law,
                (parameter, gradient, running),
                (coefficients, is_weight),
                (parameter, running),
                lines,
            )
            if column + width > columns:
                clear_padding(parameter, rows, width, columns - column)

    return update_parameters


@register_jitable(forceinline=True)
def transpose_rows(
    transposed, units, transposed_padded, parameter, width, row, rows, column, features, lanes
):
    """transposed[u, f] = parameter[f, u] for some rows f of the panel that begins at a column.

    `parameter` points at the first of the rows, which is a multiple of a line.
    """
    panel = PANEL_LINES * lanes
    for i in range(row, row + rows, lanes):
        other = i // panel * panel  # where the panel of the transposed copy begins
        other_width = panel_width(transposed_padded, other, lanes)
        for shift in range(0, min(width, units - column), lanes):
            place = other * units + (column + shift) * other_width + i - other
            transpose_block(
                offset(transposed, place),
                other_width,
                offset(parameter, (i - row) * width + shift),
                width,
                min(lanes, features - i),
                min(lanes, units - column - shift),
            )


def transpose_weight(real):
    """transposed[u, f] = parameter[f, u] for a run of rows of one panel."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def transpose_weight(arguments, first, last):
        parameter, features = pointer(arguments, 1, real), height(arguments, 1)
        column = first // features * panel
        width = panel_width(padded_columns(arguments, 1), column, lanes)
        row = first % features
        transpose_rows(
            pointer(arguments, 0, real),
            height(arguments, 0),
            padded_columns(arguments, 0),
            offset(parameter, column * features + row * width),
            width,
            row,
            last - first,
            column,
            features,
            lanes,
        )

    return transpose_weight


@register_jitable(forceinline=True)
def averaged(average, parameter, rate):
    return (average + rate * (parameter - average),)


def average_parameters(real):
    """averages += rate * (parameters - averages), for lines first <= line < last of the slab.

    rate = (1 - decay) / (1 - decay**step), so that the average is sum_s decay**s p_(t-s) over the sum
    of these weights: that of the parameters since the run began, without those that it began with.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth

    def average_parameters(arguments, first, last):
        place = first * lanes
        averages = offset(pointer(arguments, 0, real), place)
        parameters = offset(pointer(arguments, 1, real), place)
        rate = real(pointer(arguments, 2, types.float64)[AVERAGE_RATE])
        lines = last - first
        map_elements(averaged, (averages, parameters), (rate,), (averages,), lines)

    return average_parameters
