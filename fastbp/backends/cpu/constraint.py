"""Kernels that hold parameters to a constraint, after their update."""

from __future__ import annotations

import math

from numba.extending import register_jitable

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    size,
    stack_array,
)
from fastbp.backends.cpu.panels import panel_width
from fastbp.backends.cpu.reductions import sum_of_squares
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.update import transpose_rows
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["constrain_weight"]


@register_jitable(forceinline=True)
def square_added(total, value):
    return (total + value * value,)


@register_jitable(forceinline=True)
def scaled(value, factor):
    return (value * factor,)


@register_jitable(forceinline=True)
def factor_of(norm, limit, one):
    """min(1, limit / norm); NaN for a norm that is not finite, so that it does not pass for zero."""
    if norm <= limit:
        return one
    return limit / norm if norm < math.inf else norm - norm


def constrain_weight(real):
    """parameter[:, u] *= min(1, limit / norm) for units u, norm = sqrt(sum of its squares).

    `first` and `last` count panels of units; of a turned weight, which is (units, inputs), units.
    The weight's other layout follows.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    one = real(1.0)

    @register_jitable(forceinline=True)
    def constrain_rows(arguments, first, last):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        limit = pointer(arguments, 2, real)[0]
        for row in range(first, last):
            squares = 0.0
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                place = column * rows_high + row * width
                squares += sum_of_squares(offset(pointer(arguments, 0, real), place), width // lanes)
            factor = factor_of(real(math.sqrt(squares)), limit, one)
            if factor == one:
                continue
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                part = offset(pointer(arguments, 0, real), column * rows_high + row * width)
                map_elements(scaled, (part,), (factor,), (part,), width // lanes)

    @register_jitable(forceinline=True)
    def constrain_panel(arguments, column, width):
        rows_high = height(arguments, 0)
        limit = pointer(arguments, 2, real)[0]
        parameter = offset(pointer(arguments, 0, real), column * rows_high)
        factors = stack_array(panel, real)
        lines = width // lanes
        for j in range(width):
            factors[j] = real(0.0)
        for row in range(rows_high):
            part = offset(parameter, row * width)
            map_elements(square_added, (factors, part), (), (factors,), lines)
        for j in range(width):
            factors[j] = factor_of(real(math.sqrt(factors[j])), limit, one)
        for row in range(rows_high):
            part = offset(parameter, row * width)
            map_elements(multiplied, (part, factors), (), (part,), lines)

    def constrain_weight(arguments, first, last):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        columns, turned = size(arguments, 3, 0), size(arguments, 3, 1)
        begin, end, row, rows = first * panel, min(last * panel, padded), 0, rows_high
        if turned != 0:
            constrain_rows(arguments, first, last)
            begin, end, row, rows = 0, padded, first, last - first
        for column in range(begin, end, panel):
            width = panel_width(padded, column, lanes)
            if turned == 0:
                constrain_panel(arguments, column, width)
            if is_present(arguments, 1):
                transpose_rows(
                    pointer(arguments, 1, real),
                    columns,
                    padded_columns(arguments, 1),
                    offset(pointer(arguments, 0, real), column * rows_high + row * width),
                    width,
                    row,
                    rows,
                    column,
                    rows_high,
                    lanes,
                )

    return constrain_weight
