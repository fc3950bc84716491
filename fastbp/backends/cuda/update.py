"""Kernels that turn gradients into new parameters."""

from __future__ import annotations

from fastbp.backends.contract import Scalar
from fastbp.backends.cuda.intrinsics import (
    height,
    padded_columns,
    pointer,
    pointer_at,
    reader,
    size,
    writer,
)
from fastbp.backends.cuda.language import barrier, quotient, remainder, shared_memory, thread
from fastbp.backends.cuda.reductions import block_sum
from fastbp.backends.cuda.tuning import THREADS
from fastbp.elementary import sqrt

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


def begin_step(real, wide, law, setting_count, coefficient_count, carry_count):
    """The optimizer's once-a-step law, in float64, by one thread."""
    settings_of, carry_of = reader(setting_count), reader(carry_count)
    write_coefficients, write_carry = writer(coefficient_count), writer(carry_count)

    def begin_step(arguments, first, last, part, place):
        coefficients, carry = pointer(arguments, 0, real), pointer(arguments, 1, wide)
        scalars = pointer(arguments, 2, wide)
        if thread() == 0:
            settings = settings_of(pointer(arguments, 3, wide), 1)
            values, carried = law(
                scalars[STEP], scalars[LEARNING_RATE], carry_of(carry, 1), settings
            )
            write_coefficients(coefficients, 1, values)
            write_carry(carry, 1, carried)
        barrier()

    return begin_step


def reduce_tiles(real, wide):
    """Sum the tiles in a fixed order: the gradient's norm, and the penalty into the objective.

    One block.
    """

    def reduce_tiles(arguments, first, last, part, place):
        scalars = pointer(arguments, 0, wide)
        tile_norm, tile_penalty = pointer(arguments, 1, wide), pointer(arguments, 2, wide)
        memory = shared_memory(wide)
        norm, penalty = wide(0.0), wide(0.0)
        for i in range(thread(), size(arguments, 3, 0), THREADS):
            norm += tile_norm[i]
            penalty += tile_penalty[i]
        norm, penalty = block_sum(norm, memory), block_sum(penalty, memory)
        if thread() == 0:
            scalars[NORM] = sqrt(norm)
            scalars[LOSS] += penalty
        barrier()

    return reduce_tiles


def update_parameters(real, wide, law, slot_count, coefficient_count, shape):
    """Clip the gradient, where that is asked for, and apply the optimizer's law."""
    panel, down = shape.columns, THREADS // shape.columns
    slots_of, write_slots = reader(slot_count), writer(slot_count)
    coefficients_of = reader(coefficient_count)

    def update_parameters(arguments, first, last, part, place):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        coefficients = coefficients_of(pointer(arguments, 3, real), 1)
        bound = pointer(arguments, 4, real)[0]
        scale = real(pointer(arguments, 5, wide)[CLIP_SCALE])
        columns, is_weight = size(arguments, 6, 0), real(size(arguments, 6, 1))
        apart = rows_high * padded  # from one slot of a parameter to the next
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        for each in range(quotient(first, rows_high), quotient(last - 1, rows_high) + 1):
            begin = each * panel
            width = min(panel, padded - begin)
            low = max(first - each * rows_high, 0)
            high = min(last - each * rows_high, rows_high)
            if begin + column < columns:
                for i in range(low + row, high, down):
                    at = begin * rows_high + i * width + column
                    parameter = pointer_at(arguments, 0, real, at)
                    slots = pointer_at(arguments, 1, real, at)
                    gradient = pointer(arguments, 2, real)[at] * scale
                    gradient = bound if gradient > bound else gradient
                    gradient = -bound if gradient < -bound else gradient
                    value, running = law(
                        parameter[0], gradient, slots_of(slots, apart), coefficients, is_weight
                    )
                    parameter[0] = value
                    write_slots(slots, apart, running)
        barrier()

    return update_parameters


def transpose_weight(real, shape):
    """transposed[u, f] = parameter[f, u] for a run of rows of one panel, through shared memory."""
    panel, down = shape.columns, THREADS // shape.columns
    stride = panel + 1  # rows of the tile start on different banks

    def transpose_weight(arguments, first, last, part, place):
        features, padded = height(arguments, 1), padded_columns(arguments, 1)
        units, transposed_padded = height(arguments, 0), padded_columns(arguments, 0)
        memory = shared_memory(real)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        begin, top = quotient(first, features) * panel, remainder(first, features)
        width, rows = min(panel, padded - begin), last - first
        parameter = pointer_at(arguments, 1, real, begin * features + top * width)
        if column < width:
            for i in range(row, rows, down):
                memory[column * stride + i] = parameter[i * width + column]
        barrier()
        # The tile's rows are columns of one panel of the transposed weight.
        before = quotient(top, panel) * panel
        other_width = min(panel, transposed_padded - before)
        transposed = pointer_at(arguments, 0, real, before * units + top - before)
        if column < rows:
            for u in range(row, min(width, units - begin), down):
                transposed[(begin + u) * other_width + column] = memory[u * stride + column]
        barrier()

    return transpose_weight


def average_parameters(real, wide, shape):
    """averages += rate * (parameters - averages), for lines first <= line < last of the slab.

    rate = (1 - decay) / (1 - decay**step), so that the average is sum_s decay**s p_(t-s) over the
    sum of these weights: that of the parameters since the run began, without those that it began
    with.
    """
    lanes = shape.vector

    def average_parameters(arguments, first, last, part, place):
        averages, parameters = pointer(arguments, 0, real), pointer(arguments, 1, real)
        rate = real(pointer(arguments, 2, wide)[AVERAGE_RATE])
        for i in range(first * lanes + thread(), last * lanes, THREADS):
            average = averages[i]
            averages[i] = average + rate * (parameters[i] - average)

    return average_parameters
