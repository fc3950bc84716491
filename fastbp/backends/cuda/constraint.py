"""Kernels that hold parameters to a constraint, after their update."""

from __future__ import annotations

from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer,
    pointer_at,
)
from fastbp.backends.cuda.language import barrier, quotient, remainder, shared_memory, thread
from fastbp.backends.cuda.reductions import block_sum
from fastbp.backends.cuda.tuning import CONSTRAINED, THREADS
from fastbp.elementary import sqrt

__all__ = ["constrain_weight"]


def factor_of(norm, limit, one):
    """min(1, limit / norm); NaN for a norm that is not finite, so that it passes for no zero."""
    if norm <= limit:
        return one
    return limit / norm + (norm - norm)


def constrain_weight(real, shape):
    """parameter[:, u] *= min(1, limit / norm) for units u, norm = sqrt(sum of its squares).

    `first` and `last` count panels of units, and `part` says which share of their columns is this
    block's: `CONSTRAINED` units at a time. No weight is turned here. The weight's other layout
    follows, through shared memory; where every norm is within the limit nothing is written.
    """
    panel = shape.columns
    units = min(CONSTRAINED, panel)  # of a block
    down = THREADS // units
    stride = panel + 1  # rows of the tile start on different banks

    def constrain_weight(arguments, first, last, part, place):
        share, shares = part
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        limit = pointer(arguments, 2, real)[0]
        memory = shared_memory(real)
        one = real(1.0)
        t = thread()
        column, row = remainder(t, units), quotient(t, units)
        # Of the transposed weight, whose rows are units and whose panels hold inputs.
        across, down_there = remainder(t, panel), quotient(t, panel)
        for each in range(first, last):
            begin = each * panel
            width = min(panel, padded - begin)
            for low in range(share * units, width, shares * units):
                inside = low + column < width
                parameter = pointer_at(arguments, 0, real, begin * rows_high + low + column)
                squares = real(0.0)
                if inside:
                    i = row
                    while i < rows_high:
                        value = parameter[i * width]
                        squares += value * value
                        i += down
                memory[t] = squares
                barrier()
                squares = real(0.0)
                i = column
                while i < units * down:
                    squares += memory[i]
                    i += units
                factor = factor_of(sqrt(squares), limit, one)
                barrier()
                changed = block_sum(real(0.0) if factor == one else one, memory)
                if changed != real(0.0):
                    for top in range(0, rows_high, panel):
                        rows = min(panel, rows_high - top)
                        if inside:
                            for i in range(row, rows, down):
                                value = parameter[(top + i) * width] * factor
                                parameter[(top + i) * width] = value
                                memory[column * stride + i] = value
                        barrier()
                        if is_present(arguments, 1):
                            number = height(arguments, 1)
                            other_width = min(panel, padded_columns(arguments, 1) - top)
                            transposed = pointer_at(arguments, 1, real, top * number)
                            high = min(units, number - begin - low)
                            if across < rows:
                                for u in range(down_there, high, THREADS // panel):
                                    at = (begin + low + u) * other_width + across
                                    transposed[at] = memory[u * stride + across]
                        barrier()

    return constrain_weight
