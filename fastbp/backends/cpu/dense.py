"""The dense layer's kernels of the propagation pass.

Each goes panel by panel: the product leaves a block of rows in the first-level cache, and the law
is applied there in one run over contiguous memory, padding included; what it leaves in the padding
is set to zero again. A few rows of a small layer go one by one, without register
tiles.
"""

from __future__ import annotations

from numba.extending import register_jitable

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    product_for,
    read_tuple,
    size,
    stack_array,
)
from fastbp.backends.cpu.panels import clear_padding, multiply_panels, panel_width
from fastbp.backends.cpu.reductions import thin_product
from fastbp.backends.cpu.single_row import go_one_by_one, multiply_row, multiply_row_thin
from fastbp.backends.cpu.tuning import BLOCK_ROWS, DEPTH_BLOCK, PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["dense_backward_data", "dense_forward"]


def dense_forward(real, law, setting_count):
    """output, derivative = law(inputs @ weight + bias); the derivative may be absent.

    A thin layer has its weight as (units, features).
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = BLOCK_ROWS * panel

    @register_jitable(forceinline=True)
    def forward_row(arguments, row):
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        has_derivative = is_present(arguments, 1)
        matrix = (pointer(arguments, 2, real), rows_high, padded_columns(arguments, 2), row)
        settings = read_tuple(pointer(arguments, 5, real), 1, setting_count)
        features, units = size(arguments, 6, 0), size(arguments, 6, 1)
        unwanted = stack_array(panel, real)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            place = column * rows_high + row * width
            target = offset(output, place)
            start = offset(pointer(arguments, 4, real), column)
            weight = offset(pointer(arguments, 3, real), column * features)
            if size(arguments, 6, 2) != 0:
                multiply_row_thin(target, start, matrix, weight, units)
            else:
                multiply_row(target, start, False, matrix, features, weight, width)
            slopes = offset(pointer(arguments, 1, real), place) if has_derivative else unwanted
            map_elements(law, (target,), (settings,), (target, slopes), width // lanes)
            if column + width > units:
                clear_padding(target, 1, width, units - column)
                clear_padding(slopes, 1, width, units - column)

    def dense_forward(arguments, first_row, last_row):
        lines = padded_columns(arguments, 0) // lanes
        if go_one_by_one(last_row - first_row, size(arguments, 6, 0) * lines):
            for row in range(first_row, last_row):
                forward_row(arguments, row)
            return
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        derivative, has_derivative = pointer(arguments, 1, real), is_present(arguments, 1)
        inputs, inputs_padded = pointer(arguments, 2, real), padded_columns(arguments, 2)
        weight, bias = pointer(arguments, 3, real), pointer(arguments, 4, real)
        settings = read_tuple(pointer(arguments, 5, real), 1, setting_count)
        features, units = size(arguments, 6, 0), size(arguments, 6, 1)
        thin = size(arguments, 6, 2)
        unwanted = stack_array(block, real)
        # The depth is taken in blocks, so that all columns meet the same block of the inputs while
        # it is near; each chain goes on where the block before left it. (No range has steps of 0,
        # which would raise.)
        depth = max(features, 1) if thin != 0 else DEPTH_BLOCK
        for begin in range(0, features, depth):
            end = min(begin + depth, features)
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                product = product_for(arguments, 6, 3, width, lanes)
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
                            offset(bias, column) if begin == 0 else target,
                            0 if begin == 0 else width,
                            inputs,
                            rows_high,
                            inputs_padded,
                            row,
                            rows,
                            begin,
                            end,
                            offset(weight, column * features),
                            width,
                            lanes,
                        )
                    if end < features:
                        continue
                    slopes = offset(derivative, place) if has_derivative else unwanted
                    lines = rows * width // lanes
                    map_elements(law, (target,), (settings,), (target, slopes), lines)
                    if column + width > units:
                        clear_padding(target, rows, width, units - column)
                        clear_padding(slopes, rows, width, units - column)

    return dense_forward


def dense_backward_data(real):
    """input_delta *= delta @ weight.T: the derivative that forward left there meets its delta.

    With `replace`, input_delta = delta @ weight.T: the inputs of a network have no derivative.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = BLOCK_ROWS * panel

    @register_jitable(forceinline=True)
    def backward_row(arguments, row):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        matrix = (pointer(arguments, 1, real), rows_high, padded_columns(arguments, 1), row)
        units, scales = size(arguments, 3, 1), size(arguments, 3, 2) == 0
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            target = offset(pointer(arguments, 0, real), column * rows_high + row * width)
            weight = offset(pointer(arguments, 2, real), column * units)
            multiply_row(target, nothing, scales, matrix, units, weight, width)

    def dense_backward_data(arguments, first_row, last_row):
        lines = padded_columns(arguments, 0) // lanes
        if go_one_by_one(last_row - first_row, size(arguments, 3, 1) * lines):
            for row in range(first_row, last_row):
                backward_row(arguments, row)
            return
        input_delta, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        delta, delta_padded = pointer(arguments, 1, real), padded_columns(arguments, 1)
        weight = pointer(arguments, 2, real)
        units, replace = size(arguments, 3, 1), size(arguments, 3, 2)
        scratch = stack_array(block, real)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        for column in range(0, padded, panel):
            width = panel_width(padded, column, lanes)
            product = product_for(arguments, 3, 3, width, lanes)
            for row in range(first_row, last_row, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, last_row - row)
                target = offset(input_delta, column * rows_high + row * width)
                sums = target if replace != 0 else scratch
                for begin in range(0, units, DEPTH_BLOCK):
                    multiply_panels(
                        product,
                        sums,
                        nothing if begin == 0 else sums,
                        0 if begin == 0 else width,
                        delta,
                        rows_high,
                        delta_padded,
                        row,
                        rows,
                        begin,
                        min(begin + DEPTH_BLOCK, units),
                        offset(weight, column * units),
                        width,
                        lanes,
                    )
                if replace == 0:
                    lines = rows * width // lanes
                    map_elements(multiplied, (target, scratch), (), (target,), lines)

    return dense_backward_data
