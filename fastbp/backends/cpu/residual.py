"""Residual blocks: sums of what went through the layers and what went past them."""

from __future__ import annotations

from numba.extending import register_jitable

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    size,
)
from fastbp.backends.cpu.panels import panel_width, set_to_one
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["multiply_delta", "residual_backward", "residual_forward"]


@register_jitable(forceinline=True)
def same(a):
    return (a,)


@register_jitable(forceinline=True)
def added(a, b):
    return (a + b,)


@register_jitable(forceinline=True)
def sum_multiplied(factor, a, b):
    return (factor * (a + b),)


def multiply_delta(real):
    """input_delta *= delta; with `replace`, input_delta = delta."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def multiply_delta(arguments, first_row, last_row):
        input_delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        delta = pointer(arguments, 1, real)
        replace = size(arguments, 2, 1)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            place = column * rows_high + first_row * width
            lines = (last_row - first_row) * width // lanes
            target, source = offset(input_delta, place), offset(delta, place)
            if replace != 0:
                map_elements(same, (source,), (), (target,), lines)
            else:
                map_elements(multiplied, (target, source), (), (target,), lines)

    return multiply_delta


def residual_forward(real):
    """output = inputs + branch; the derivative, which may be absent, is 1."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def residual_forward(arguments, first_row, last_row):
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        inputs, branch = pointer(arguments, 2, real), pointer(arguments, 3, real)
        rows, columns = last_row - first_row, size(arguments, 4, 0)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            place = column * rows_high + first_row * width
            values = (offset(inputs, place), offset(branch, place))
            lines = rows * width // lanes
            map_elements(added, values, (), (offset(output, place),), lines)
            if is_present(arguments, 1):
                slopes = offset(pointer(arguments, 1, real), place)
                set_to_one(slopes, rows, width, columns - column)

    return residual_forward


def residual_backward(real):
    """input_delta *= delta + branch_delta; with `replace`, input_delta is that sum."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def residual_backward(arguments, first_row, last_row):
        input_delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        delta, branch = pointer(arguments, 1, real), pointer(arguments, 2, real)
        replace = size(arguments, 3, 1)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            place = column * rows_high + first_row * width
            lines = (last_row - first_row) * width // lanes
            target = offset(input_delta, place)
            past, through = offset(delta, place), offset(branch, place)
            if replace != 0:
                map_elements(added, (past, through), (), (target,), lines)
            else:
                map_elements(sum_multiplied, (target, past, through), (), (target,), lines)

    return residual_backward
