"""Loss kernels for rows in lanes: the loss of each row, and the delta that starts backward.

They leave what those of `backends.cpu.loss` leave, lane for lane, and zeros in the deltas of the
lanes after the last row.
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    is_present,
    offset,
    padded_columns,
    pointer,
    read_tuple,
    size,
    stack_array,
)
from fastbp.backends.cpu.lanes.operations import fill_lines, gather_columns
from fastbp.backends.cpu.loss import shifted_exp
from fastbp.backends.cpu.panels import panel_width
from fastbp.backends.cpu.rows import order_of_segment
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES
from fastbp.elementary import constant, log

__all__ = [
    "cross_entropy_loss_in_lanes",
    "elementwise_loss_in_lanes",
    "smoothed_cross_entropy_loss_in_lanes",
]

CHUNK = 16  # outputs that go through the law in one run


@register_jitable(forceinline=True)
def sum_of(a, b):
    return (a + b,)


@register_jitable(forceinline=True)
def larger(a, b):
    return (b if b > a else a,)


@register_jitable(forceinline=True)
def weighed(value, weight):
    # A row that counts nothing may have an infinite loss.
    return (weight * value if weight != constant(0.0, weight) else weight,)


@register_jitable(forceinline=True)
def share_less_hit(slope, share, total, label, weight, output):
    one, zero = constant(1.0, slope), constant(0.0, slope)
    hit = one if label == output else zero
    change = slope * (weight * (share / total - hit))
    return (change if weight != zero else zero,)


@register_jitable(forceinline=True)
def share_less_target(slope, share, total, label, weight, output, kept, spread):
    zero = constant(0.0, slope)
    target = (kept if label == output else zero) + spread
    change = slope * (weight * (share / total - target))
    return (change if weight != zero else zero,)


@register_jitable(forceinline=True)
def loss_of_share(total, largest, chosen):
    return (log(total) + (largest - chosen),)


@register_jitable(forceinline=True)
def smoothed_loss_of_share(total, largest, chosen, apart, kept):
    return (log(total) + (kept * (largest - chosen) + apart),)


@register_jitable(forceinline=True)
def with_distance(apart, value, largest, spread):
    return (apart + spread * (largest - value),)


def elementwise_loss_in_lanes(real, law, setting_count):
    """The mean of an element-wise law over the outputs of each row."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = CHUNK * panel

    @register_jitable(forceinline=True)
    def loss_and_delta(output, target, slope, settings, share):
        loss, derivative = law(output, target, settings)
        return loss, slope * (derivative * share)

    def elementwise_loss_in_lanes(arguments, first_row, last_row):
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, padded = pointer(arguments, 2, real), padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        targets = pointer(arguments, 4, real)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        row_index = order_of_segment(arguments, 6, 7)
        settings = read_tuple(pointer(arguments, 8, real), 1, setting_count)
        outputs = size(arguments, 9, 0)
        share = real(1.0) / real(outputs)
        wanted = stack_array(block, real)
        losses = stack_array(block, real)
        for row in range(first_row, last_row, panel):
            width = panel_width(padded, row, lanes)
            rows = min(width, last_row - row)
            index = offset(row_index, row)
            wide = width // lanes
            total, weight = offset(row_loss, row), offset(row_weight, row)
            fill_lines(total, real(0.0), wide)
            fill_lines(weight, real(1.0), wide)
            for i in range(rows, width):
                weight[i] = real(0.0)
            if weighted:
                for i in range(rows):
                    weight[i] = weights[index[i]]
            for first in range(0, outputs, CHUNK):
                count = min(CHUNK, outputs - first)
                place = row * outputs + first * width
                change, lines = offset(delta, place), count * wide
                source = offset(targets, first)
                gather_columns(wanted, width, source, outputs, index, rows, count)
                values = (offset(output, place), wanted, change)
                map_elements(loss_and_delta, values, (settings, share), (losses, change), lines)
                for j in range(count):
                    map_elements(sum_of, (total, offset(losses, j * width)), (), (total,), wide)
                    if weighted or rows < width:
                        each = offset(change, j * width)
                        map_elements(weighed, (each, weight), (), (each,), wide)
            map_elements(multiplied, (total,), (share,), (total,), wide)
            if weighted:
                map_elements(weighed, (total, weight), (), (total,), wide)

    return elementwise_loss_in_lanes


def cross_entropy_loss_in_lanes(real):
    """-log softmax(output)[label]; the derivative is softmax(output) - onehot(label)."""
    rows_through = cross_entropy_in_lanes(real, smooths=False)

    def cross_entropy_loss_in_lanes(arguments, first_row, last_row):
        rows_through(arguments, first_row, last_row)

    return cross_entropy_loss_in_lanes


def smoothed_cross_entropy_loss_in_lanes(real):
    """The same for the target (1 - s) onehot(label) + s / outputs; s is the setting."""
    rows_through = cross_entropy_in_lanes(real, smooths=True)

    def smoothed_cross_entropy_loss_in_lanes(arguments, first_row, last_row):
        rows_through(arguments, first_row, last_row)

    return smoothed_cross_entropy_loss_in_lanes


def cross_entropy_in_lanes(real, smooths):
    """What the kernel does, with label smoothing or with no trace of it."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    @register_jitable(forceinline=True)
    def rows_through(arguments, first_row, last_row):
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, padded = pointer(arguments, 2, real), padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        labels = pointer(arguments, 4, types.int64)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        row_index = order_of_segment(arguments, 6, 7)
        outputs = size(arguments, 9 if smooths else 8, 0)
        kept, spread = real(1.0), real(0.0)  # to the label; to every class
        if smooths:
            smoothing = pointer(arguments, 8, real)[0]
            kept, spread = real(1.0) - smoothing, smoothing / real(outputs)
        label = stack_array(panel, real)
        chosen = stack_array(panel, real)
        largest = stack_array(panel, real)
        shares = stack_array(panel, real)
        apart = stack_array(panel, real)
        for row in range(first_row, last_row, panel):
            width = panel_width(padded, row, lanes)
            rows = min(width, last_row - row)
            index = offset(row_index, row)
            wide = width // lanes
            total, weight = offset(row_loss, row), offset(row_weight, row)
            values, change = offset(output, row * outputs), offset(delta, row * outputs)
            for line in (total, weight, label, chosen):
                fill_lines(line, real(0.0), wide)
            if smooths:
                fill_lines(apart, real(0.0), wide)
            fill_lines(largest, real(-math.inf), wide)
            for i in range(rows):
                data_row = index[i]
                weight[i] = weights[data_row] if weighted else real(1.0)
                label[i] = real(labels[data_row])
                chosen[i] = values[labels[data_row] * width + i]
            for j in range(outputs):
                map_elements(larger, (largest, offset(values, j * width)), (), (largest,), wide)
            for j in range(outputs):
                each = offset(values, j * width)
                map_elements(shifted_exp, (each, largest), (), (shares,), wide)
                map_elements(sum_of, (total, shares), (), (total,), wide)
                if smooths:
                    distant = (apart, each, largest)
                    map_elements(with_distance, distant, (spread,), (apart,), wide)
            for j in range(outputs):
                each, slope = offset(values, j * width), offset(change, j * width)
                map_elements(shifted_exp, (each, largest), (), (shares,), wide)
                shared = (slope, shares, total, label, weight)
                if smooths:
                    smoothed = (real(j), kept, spread)
                    map_elements(share_less_target, shared, smoothed, (slope,), wide)
                else:
                    map_elements(share_less_hit, shared, (real(j),), (slope,), wide)
            if smooths:
                parts = (total, largest, chosen, apart)
                map_elements(smoothed_loss_of_share, parts, (kept,), (total,), wide)
            else:
                map_elements(loss_of_share, (total, largest, chosen), (), (total,), wide)
            map_elements(weighed, (total, weight), (), (total,), wide)

    return rows_through
