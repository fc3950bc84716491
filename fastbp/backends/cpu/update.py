"""Kernels that turn gradients into new parameters."""

from __future__ import annotations

import math

from numba import types

from fastbp.backends.contract import Scalar
from fastbp.backends.cpu.intrinsics import (
    leading_dimension,
    matrix,
    offset,
    pointer,
    read_tuple,
    size,
    vector,
    write_tuple,
)

__all__ = ["begin_step", "penalize_gradient", "reduce_tiles", "update_parameters"]

STEP, LEARNING_RATE = int(Scalar.STEP), int(Scalar.LEARNING_RATE)
LOSS, NORM, CLIP_SCALE = int(Scalar.LOSS), int(Scalar.NORM), int(Scalar.CLIP_SCALE)


def begin_step(real, sources, law, setting_count, coefficient_count, carry_count):
    """The optimizer's once-a-step law, in float64."""

    def begin_step(arguments, first_row, last_row):
        sources  # noqa: B018
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


def penalize_gradient(real, sources):
    """gradient += l2 * parameter + l1 * sign(parameter); the tile's squared norm and penalty."""

    def penalize_gradient(arguments, first_row, last_row):
        sources  # noqa: B018
        gradient = matrix(arguments, 0, real)
        tile_norm = vector(arguments, 1, types.float64)
        tile_penalty = vector(arguments, 2, types.float64)
        parameter = matrix(arguments, 3, real)
        penalties = vector(arguments, 4, types.float64)
        columns, is_weight = size(arguments, 5, 0), size(arguments, 5, 1)
        tile_rows, first_tile = size(arguments, 5, 2), size(arguments, 5, 3)
        l1, l2 = penalties[0], penalties[1]
        norm = 0.0
        penalty = 0.0
        penalized = is_weight != 0 and (l1 != 0.0 or l2 != 0.0)
        for i in range(first_row, last_row):
            values = gradient[i, :columns]
            if penalized:
                weights = parameter[i, :columns]
                for j in range(columns):
                    weight = weights[j]
                    direction = real(0.0)
                    if weight > real(0.0):
                        direction = real(1.0)
                    elif weight < real(0.0):
                        direction = real(-1.0)
                    values[j] += real(l2) * weight + real(l1) * direction
                    exact = types.float64(weight)
                    penalty += 0.5 * l2 * exact * exact + l1 * abs(exact)
            for j in range(columns):
                exact = types.float64(values[j])
                norm += exact * exact
        tile = first_tile + first_row // tile_rows
        tile_norm[tile] = norm
        tile_penalty[tile] = penalty

    return penalize_gradient


def reduce_tiles(real, sources):
    """Sum the tiles in their order: the gradient's norm, and the penalty into the objective."""

    def reduce_tiles(arguments, first_row, last_row):
        sources  # noqa: B018
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


def update_parameters(real, sources, law, slot_count, coefficient_count):
    """Clip the gradient and apply the optimizer's law, in the plain and the transposed layout."""

    def update_parameters(arguments, first_row, last_row):
        sources  # noqa: B018
        parameter = matrix(arguments, 0, real)
        transposed = matrix(arguments, 1, real)
        slots, slot_stride = pointer(arguments, 2, real), leading_dimension(arguments, 2)
        gradient = matrix(arguments, 3, real)
        coefficients = read_tuple(pointer(arguments, 4, real), 1, coefficient_count)
        clip_value = vector(arguments, 5, real)[0]
        clip_scale = real(vector(arguments, 6, types.float64)[CLIP_SCALE])
        columns, is_weight = size(arguments, 7, 0), real(size(arguments, 7, 1))
        slot_size = parameter.shape[0] * slot_stride
        for i in range(first_row, last_row):
            parameters = parameter[i, :columns]
            gradients = gradient[i, :columns]
            row_slots = offset(slots, i * slot_stride)
            for j in range(columns):
                clipped = gradients[j] * clip_scale
                if clipped > clip_value:
                    clipped = clip_value
                elif clipped < -clip_value:
                    clipped = -clip_value
                place = offset(row_slots, j)
                changed, running = law(
                    parameters[j],
                    clipped,
                    read_tuple(place, slot_size, slot_count),
                    coefficients,
                    is_weight,
                )
                parameters[j] = changed
                write_tuple(place, slot_size, running)
        if transposed.shape[0] > 0:
            for i in range(first_row, last_row):
                for j in range(columns):
                    transposed[j, i] = parameter[i, j]

    return update_parameters
