"""Gradients of the parameters: sums over the rows of the batch.

The rows of a segment may be cut into shares, each of which has a copy of the gradient; the copies
lie one after the other. `finish_gradient` adds them up in their order.
"""

from __future__ import annotations

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer,
    pointer_at,
    size,
)
from fastbp.backends.cuda.language import barrier, quotient, remainder, shared_memory, thread
from fastbp.backends.cuda.product import whole_parts
from fastbp.backends.cuda.reductions import block_sum
from fastbp.backends.cuda.tensor_cores import multiply_transposed
from fastbp.backends.cuda.tuning import THREADS

__all__ = ["dense_bias_gradient", "dense_weight_gradient", "finish_gradient"]

ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
GRADIENT_SCALE = int(Scalar.GRADIENT_SCALE)
WEIGHT_TENSORS, BIAS_TENSORS = 9, 6  # of the contracts


def share_of_rows(rows, share, shares):
    """The rows of a segment that a share has: first and last, multiples of the depth."""
    each = whole_parts(quotient(rows + shares - 1, shares))
    first = min(share * each, rows)
    return first, min(first + each, rows)


def dense_weight_gradient(real, integer, shape, precision="float32"):
    """gradient += inputs.T @ delta over a share of the rows, from zero in the first segment.

    Each share adds to its copy of the gradient.
    A tile is a run of rows of one panel of the gradient, and no higher than a panel of the inputs.
    """
    panel, down = shape.columns, THREADS // shape.columns
    multiply = multiply_transposed(real, shape, precision)

    def dense_weight_gradient(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        batch_height, inputs_padded = height(arguments, 5), padded_columns(arguments, 5)
        batch = pointer(arguments, 8, integer)
        memory = shared_memory(real)
        begin = quotient(first, rows_high) * panel
        row = remainder(first, rows_high)
        width = min(panel, padded - begin)
        before = (
            quotient(row, panel) * panel
        )  # the panel of the inputs that the tile's rows are columns of
        inputs_width = min(panel, inputs_padded - before)
        inputs = pointer_at(arguments, 5, real, before * batch_height + row - before)
        delta = pointer_at(arguments, 6, real, begin * batch_height)
        low, high = share_of_rows(batch[ROWS], share, shares)
        left = (inputs, inputs_width, inputs_width - (row - before))
        multiply(memory, panel, left, (delta, width), low, high, memory)
        copy = share * rows_high * padded
        gradient = pointer_at(arguments, 0, real, copy + begin * rows_high + row * width)
        t = thread()
        column = remainder(t, panel)
        if column < width:
            for i in range(quotient(t, panel), last - first, down):
                value = memory[i * panel + column]
                if batch[BEGINS] == 0:
                    value += gradient[i * width + column]
                gradient[i * width + column] = value
        barrier()

    return dense_weight_gradient


def dense_bias_gradient(real, integer, shape):
    """gradient += sum of delta over a share of the rows, from zero in the first segment.

    Each share adds to its copy of the gradient. Some threads sum every so many rows of a column,
    and their sums are added up in their order.
    """
    panel, down = shape.columns, THREADS // shape.columns

    def dense_bias_gradient(arguments, first, last, part, place):
        share, shares = part
        padded, batch_height = padded_columns(arguments, 0), height(arguments, 3)
        batch = pointer(arguments, 5, integer)
        memory = shared_memory(real)
        low, high = share_of_rows(batch[ROWS], share, shares)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        for each in range(first, last):
            begin = each * panel
            width = min(panel, padded - begin)
            delta = pointer_at(arguments, 3, real, begin * batch_height)
            total = real(0.0)
            if column < width:
                for i in range(low + row, high, down):
                    total += delta[i * width + column]
            memory[t] = total
            barrier()
            if row == 0 and column < width:
                gradient = pointer_at(arguments, 0, real, share * padded + begin)
                total = real(0.0)
                if batch[BEGINS] == 0:
                    total = gradient[column]
                for i in range(down):
                    total += memory[i * panel + column]
                gradient[column] = total
            barrier()

    return dense_bias_gradient


def finish_gradient(real, integer, wide, is_weight, shape):
    """gradient = the sum of its copies, divided by the sum of the weights, and the penalties.

    The tile's squared norm and its part of the penalty are left for the reduction. The arguments
    are those of `dense_weight_gradient` or `dense_bias_gradient`. It runs once a batch, after the
    last segment.
    """
    panel, down = shape.columns, THREADS // shape.columns
    tensors = WEIGHT_TENSORS if is_weight else BIAS_TENSORS
    scalars_position = 7 if is_weight else 4

    def penalties_of(arguments):
        if is_weight and is_present(arguments, 4):
            found = pointer(arguments, 4, wide)
            return real(found[0]), real(found[1])
        return real(0.0), real(0.0)

    def finish_gradient(arguments, first, last, part, place):
        _, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        scale = real(pointer(arguments, scalars_position, wide)[GRADIENT_SCALE])
        tile_rows, first_tile = size(arguments, tensors, 0), size(arguments, tensors, 1)
        memory = shared_memory(wide)
        l1, l2 = penalties_of(arguments)
        copy = rows_high * padded
        # In float64, where the square of a large gradient is still finite.
        squares, penalty = wide(0.0), wide(0.0)
        t = thread()
        column, row = remainder(t, panel), quotient(t, panel)
        for each in range(quotient(first, rows_high), quotient(last - 1, rows_high) + 1):
            begin = each * panel
            width = min(panel, padded - begin)
            low = max(first - each * rows_high, 0)
            high = min(last - each * rows_high, rows_high)
            gradient = pointer_at(arguments, 0, real, begin * rows_high)
            if column < width:
                for i in range(low + row, high, down):
                    at = i * width + column
                    value = gradient[at]
                    for share in range(1, shares):
                        value += gradient[share * copy + at]
                    value *= scale
                    if is_weight and (l1 != real(0.0) or l2 != real(0.0)):
                        weight = pointer(arguments, 3, real)[begin * rows_high + at]
                        magnitude, pull = weight, l1
                        if weight < real(0.0):
                            magnitude, pull = -weight, -l1
                        elif weight == real(0.0):
                            pull = real(0.0)
                        value += l2 * weight + pull
                        large = wide(weight)
                        penalty += wide(0.5) * wide(l2) * large * large
                        penalty += wide(l1) * wide(magnitude)
                    gradient[at] = value
                    squares += wide(value) * wide(value)
        squares, penalty = block_sum(squares, memory), block_sum(penalty, memory)
        if t == 0 and is_present(arguments, 1):
            tile = first_tile + quotient(first, tile_rows)
            if is_weight:
                of_panel = quotient(rows_high + tile_rows - 1, tile_rows)
                tile = first_tile + quotient(first, rows_high) * of_panel
                tile += quotient(remainder(first, rows_high), tile_rows)
            pointer(arguments, 1, wide)[tile] = squares
            pointer(arguments, 2, wide)[tile] = penalty
        barrier()

    return finish_gradient
