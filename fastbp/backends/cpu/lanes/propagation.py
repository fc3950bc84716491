"""Kernels of the propagation pass for rows in lanes: a column of each matrix is a row of the batch.

Narrow layers leave most of a vector to padding when the units of a row fill its lanes; here rows of
the batch fill them, and no lane is wasted. A matrix has a row for each feature or unit and lies in
panels of the batch's rows, so that the products are those of the dense layer with their factors
exchanged: the weight is read number by number, as it lies, and needs no transposed copy.

Kernels work on whole panels: `first_row` begins one, and the lanes after `last_row` are computed
from zeros. The loss leaves zeros in their deltas, so that they add nothing to a gradient.
"""

from __future__ import annotations

from numba.extending import register_jitable

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    call_product,
    height,
    offset,
    padded_columns,
    pointer,
    product_for,
    read_tuple,
    size,
    stack_array,
)
from fastbp.backends.cpu.lanes.operations import gather_columns, spread
from fastbp.backends.cpu.panels import multiply_panels, panel_width
from fastbp.backends.cpu.rows import order_of_segment
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES

__all__ = ["dense_backward_data_in_lanes", "dense_forward_in_lanes", "gather_inputs_in_lanes"]

CHUNK = 16  # units that go through product and law while they are near; divides every panel


def gather_inputs_in_lanes(real):
    """inputs[:, i] = the data row that stands at the segment's position i."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def gather_inputs_in_lanes(arguments, first_row, last_row):
        inputs, padded = pointer(arguments, 0, real), padded_columns(arguments, 0)
        data = pointer(arguments, 1, real)
        row_index = order_of_segment(arguments, 2, 3)
        features = size(arguments, 4, 0)
        for row in range(first_row, last_row, panel):
            width = panel_width(padded, row, lanes)
            rows = min(width, last_row - row)
            target, index = offset(inputs, row * features), offset(row_index, row)
            gather_columns(target, width, data, features, index, rows, features)

    return gather_inputs_in_lanes


@register_jitable(forceinline=True)
def multiply_weight(
    product,
    target,
    start,
    start_stride,
    weight,
    weight_height,
    weight_padded,
    by_rows,
    first,
    count,
    b,
    depth,
    width,
    lanes,
):
    """target = start + A B for a panel B of `depth` rows: A is some of the rows of a weight.

    Without `by_rows`, A is some of its columns, transposed; `first` is a multiple of `CHUNK`, and
    there are no more than that.
    """
    panel = PANEL_LINES * lanes
    if by_rows:
        multiply_panels(
            product,
            target,
            start,
            start_stride,
            weight,
            weight_height,
            weight_padded,
            first,
            count,
            0,
            depth,
            b,
            width,
            lanes,
        )
        return
    column = first // panel * panel
    factors = offset(weight, column * weight_height + first - column)
    step = panel_width(weight_padded, column, lanes)
    call_product(product, target, start, start_stride, factors, 1, step, depth, 0, count, b, depth)


def dense_forward_in_lanes(real, law, setting_count):
    """output, derivative = law(weight.T @ inputs + bias); the weight may lie turned."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = CHUNK * panel

    def dense_forward_in_lanes(arguments, first_row, last_row):
        output, units = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        derivative = pointer(arguments, 1, real)
        inputs, features = pointer(arguments, 2, real), height(arguments, 2)
        weight, weight_height = pointer(arguments, 3, real), height(arguments, 3)
        weight_padded = padded_columns(arguments, 3)
        bias = pointer(arguments, 4, real)
        settings = read_tuple(pointer(arguments, 5, real), 1, setting_count)
        turned = size(arguments, 6, 0) != 0
        starts = stack_array(block, real)
        for unit in range(0, units, CHUNK):
            count = min(CHUNK, units - unit)
            spread(starts, offset(bias, unit), count)
            for row in range(first_row, last_row, panel):
                width = panel_width(padded, row, lanes)
                place = row * units + unit * width
                target = offset(output, place)
                multiply_weight(
                    product_for(arguments, 6, 1, width, lanes),
                    target,
                    starts,
                    panel,
                    weight,
                    weight_height,
                    weight_padded,
                    turned,
                    unit,
                    count,
                    offset(inputs, row * features),
                    features,
                    width,
                    lanes,
                )
                slopes = offset(derivative, place)
                lines = count * width // lanes
                map_elements(law, (target,), (settings,), (target, slopes), lines)

    return dense_forward_in_lanes


def dense_backward_data_in_lanes(real):
    """input_delta *= weight @ delta: the derivative that forward left there meets its delta."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = CHUNK * panel

    def dense_backward_data_in_lanes(arguments, first_row, last_row):
        input_delta, features = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        delta, units = pointer(arguments, 1, real), height(arguments, 1)
        weight, weight_height = pointer(arguments, 2, real), height(arguments, 2)
        weight_padded = padded_columns(arguments, 2)
        turned = size(arguments, 3, 0) != 0
        sums = stack_array(block, real)
        nothing = stack_array(panel, real)
        for j in range(panel):
            nothing[j] = real(0.0)
        for row in range(first_row, last_row, panel):
            width = panel_width(padded, row, lanes)
            for feature in range(0, features, CHUNK):
                count = min(CHUNK, features - feature)
                multiply_weight(
                    product_for(arguments, 3, 1, width, lanes),
                    sums,
                    nothing,
                    0,
                    weight,
                    weight_height,
                    weight_padded,
                    not turned,
                    feature,
                    count,
                    offset(delta, row * units),
                    units,
                    width,
                    lanes,
                )
                target = offset(input_delta, row * features + feature * width)
                lines = count * width // lanes
                map_elements(multiplied, (target, sums), (), (target,), lines)

    return dense_backward_data_in_lanes
