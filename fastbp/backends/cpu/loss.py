"""Loss kernels: the loss of each row, and the delta that starts the backward pass.

On entry the last layer's delta holds the derivative of its activation; on return it is multiplied
by the row's sample weight and the derivative of the row's loss. The division by the sum of the
weights waits for the weight pass, so that rows stay independent.
"""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    read_tuple,
    size,
    stack_array,
    vector,
)
from fastbp.backends.cpu.packing import MOST_COLUMNS, pack_rows, scale_rows, sum_rows
from fastbp.backends.cpu.panels import copy_line, gather_lines, multiply_lines, panel_width
from fastbp.backends.cpu.reductions import sum_of_values
from fastbp.backends.cpu.rows import order_of_segment
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import LINE_BYTES
from fastbp.elementary import constant, exp, log

__all__ = [
    "cross_entropy_loss",
    "elementwise_loss",
    "reduce_loss",
    "smoothed_cross_entropy_loss",
]

ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
LOSS, GRADIENT_SCALE = int(Scalar.LOSS), int(Scalar.GRADIENT_SCALE)
WEIGHTED_LOSS_SUM, WEIGHT_SUM = int(Scalar.WEIGHTED_LOSS_SUM), int(Scalar.WEIGHT_SUM)
BATCH_LOSS, BATCH_WEIGHT = int(Scalar.BATCH_LOSS), int(Scalar.BATCH_WEIGHT)
LEAST_ROWS = 4  # fewer are not worth packing and go one by one
CHUNK = 64  # rows whose panel of outputs goes through the law in one run


@register_jitable(forceinline=True)
def weighed(slope, weight):
    # A loss that counts nothing may be infinite.
    return (weight * slope if weight != constant(0.0, weight) else weight,)


def elementwise_loss(real, law, setting_count):
    """The mean of an element-wise law over the outputs of each row."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes
    block = CHUNK * panel

    @register_jitable(forceinline=True)
    def shared_law(output, target, settings, share):
        loss, slope = law(output, target, settings)
        return loss, slope * share

    @register_jitable(forceinline=True)
    def loss_of_row(arguments, row):
        """The same for one row of one panel; each pass reads lines as the last one wrote them."""
        padded, outputs = padded_columns(arguments, 2), size(arguments, 9, 0)
        output = offset(pointer(arguments, 3, real), row * padded)
        delta = offset(pointer(arguments, 2, real), row * padded)
        data_row = order_of_segment(arguments, 6, 7)[row]
        targets = offset(pointer(arguments, 4, real), data_row * outputs)
        settings = read_tuple(pointer(arguments, 8, real), 1, setting_count)
        share = real(1.0) / real(outputs)
        wanted = stack_array(panel, real)
        losses = stack_array(panel, real)
        slopes = stack_array(panel, real)
        lines = padded // lanes
        for j in range(0, padded, lanes):
            copy_line(offset(wanted, j), offset(targets, j), outputs - j)
        extra = (settings, share)
        map_elements(shared_law, (output, wanted), extra, (losses, slopes), lines)
        for j in range(0, padded, lanes):
            change, slope = offset(delta, j), offset(slopes, j)
            multiply_lines(change, padded, slope, padded, 1, outputs - j)
        total = real(0.0)
        for j in range(outputs):
            total += losses[j]
        weight, mean = real(1.0), total * share
        if is_present(arguments, 5):
            weight = pointer(arguments, 5, real)[data_row]
            mean = weight * mean if weight != real(0.0) else weight
            map_elements(weighed, (delta,), (weight,), (delta,), lines)
        pointer(arguments, 0, real)[row] = mean
        pointer(arguments, 1, real)[row] = weight

    def elementwise_loss(arguments, first_row, last_row):
        if last_row - first_row < LEAST_ROWS and padded_columns(arguments, 2) <= panel:
            for row in range(first_row, last_row):
                loss_of_row(arguments, row)
            return
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, rows_high = pointer(arguments, 2, real), height(arguments, 2)
        padded = padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        targets = pointer(arguments, 4, real)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        row_index = order_of_segment(arguments, 6, 7)
        settings = read_tuple(pointer(arguments, 8, real), 1, setting_count)
        outputs = size(arguments, 9, 0)
        share = real(1.0) / real(outputs)
        wanted = stack_array(block, real)
        given = stack_array(block, real)
        losses = stack_array(block, real)
        slopes = stack_array(block, real)
        for first in range(first_row, last_row, CHUNK):
            rows = min(CHUNK, last_row - first)
            index = offset(row_index, first)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                count = min(width, outputs - column)
                is_packed = count <= MOST_COLUMNS and rows >= LEAST_ROWS
                packed = count if is_packed else width
                place = column * rows_high + first * width
                result, change = offset(output, place), offset(delta, place)
                if is_packed:
                    pack_rows(wanted, offset(targets, column), outputs, index, rows, count)
                    pack_rows(given, result, width, None, rows, count)
                else:
                    for j in range(0, count, lanes):
                        source, left = offset(targets, column + j), count - j
                        gather_lines(offset(wanted, j), width, source, outputs, index, rows, left)
                lines = (rows * packed + lanes - 1) // lanes
                values = (given if is_packed else result, wanted)
                map_elements(law, values, (settings,), (losses, slopes), lines)
                map_elements(multiplied, (slopes,), (share,), (slopes,), lines)
                if is_packed and column == 0:
                    sum_rows(offset(row_loss, first), losses, rows, count)
                else:
                    for i in range(rows):
                        total = row_loss[first + i] if column > 0 else real(0.0)
                        for j in range(count):
                            total += losses[i * packed + j]
                        row_loss[first + i] = total
                if is_packed:
                    scale_rows(change, width, slopes, rows, count)
                else:
                    for j in range(0, width, lanes):
                        slope, left = offset(slopes, j), count - j
                        multiply_lines(offset(change, j), width, slope, width, rows, left)
                if weighted:
                    for i in range(rows):
                        weight = weights[index[i]]
                        for j in range(count):
                            # A loss that counts nothing may be infinite.
                            at = i * width + j
                            change[at] = weight * change[at] if weight != real(0.0) else weight
            if weighted:
                for i in range(first, first + rows):
                    weight = weights[row_index[i]]
                    row_weight[i] = weight
                    mean = weight * (row_loss[i] * share)
                    row_loss[i] = mean if weight != real(0.0) else weight
            else:
                for i in range(first, first + rows):
                    row_weight[i] = real(1.0)
                    row_loss[i] = row_loss[i] * share

    return elementwise_loss


@register_jitable(forceinline=True)
def shifted_exp(value, largest):
    return (exp(value - largest),)


def cross_entropy_loss(real):
    """-log softmax(output)[label]; the derivative is softmax(output) - onehot(label)."""
    rows_through = cross_entropy(real, smooths=False)

    def cross_entropy_loss(arguments, first_row, last_row):
        rows_through(arguments, first_row, last_row)

    return cross_entropy_loss


def smoothed_cross_entropy_loss(real):
    """The same for the target (1 - s) onehot(label) + s / outputs; s is the setting."""
    rows_through = cross_entropy(real, smooths=True)

    def smoothed_cross_entropy_loss(arguments, first_row, last_row):
        rows_through(arguments, first_row, last_row)

    return smoothed_cross_entropy_loss


def cross_entropy(real, smooths):
    """What the kernel does, with label smoothing or with no trace of it."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    @register_jitable(forceinline=True)
    def rows_through(arguments, first_row, last_row):
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, rows_high = pointer(arguments, 2, real), height(arguments, 2)
        padded = padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        labels = pointer(arguments, 4, types.int64)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        row_index = order_of_segment(arguments, 6, 7)
        outputs = size(arguments, 9 if smooths else 8, 0)
        kept, spread = real(1.0), real(0.0)  # to the label; to every class
        if smooths:
            smoothing = pointer(arguments, 8, real)[0]
            kept, spread = real(1.0) - smoothing, smoothing / real(outputs)
        shares = stack_array(panel, real)
        for i in range(first_row, last_row):
            row = row_index[i]
            label = labels[row]
            weight = weights[row] if weighted else real(1.0)
            row_weight[i] = weight
            largest = output[i * panel_width(padded, 0, lanes)]
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                values = offset(output, column * rows_high + i * width)
                for j in range(min(width, outputs - column)):
                    if values[j] > largest:
                        largest = values[j]
            total, apart = real(0.0), real(0.0)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                values = offset(output, column * rows_high + i * width)
                map_elements(shifted_exp, (values,), (largest,), (shares,), width // lanes)
                for j in range(min(width, outputs - column)):
                    total += shares[j]
                    if smooths:
                        apart += spread * (largest - values[j])
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                values = offset(output, column * rows_high + i * width)
                change = offset(delta, column * rows_high + i * width)
                if outputs > panel:  # otherwise they are still there
                    map_elements(shifted_exp, (values,), (largest,), (shares,), width // lanes)
                for j in range(min(width, outputs - column)):
                    hit = kept if column + j == label else real(0.0)
                    if smooths:
                        hit += spread
                    if weight == real(0.0):
                        change[j] = real(0.0)
                    else:
                        change[j] *= weight * (shares[j] / total - hit)
            if weight == real(0.0):
                row_loss[i] = real(0.0)
            else:
                column = label // panel * panel
                width = panel_width(padded, column, lanes)
                chosen = output[column * rows_high + i * width + label - column]
                missed = largest - chosen
                if smooths:
                    missed = kept * missed + apart
                row_loss[i] = weight * (log(total) + missed)

    return rows_through


@register_jitable(forceinline=True)
def sum_of_rows(values, rows, lanes):
    """The sum of whole lines of rows, and then of the rows that are left, in float64."""
    lines = rows // lanes
    total = sum_of_values(values, lines) if lines > 0 else 0.0
    for i in range(lines * lanes, rows):
        total += types.float64(values[i])
    return total


def reduce_loss(real):
    """Add up the segment's row losses and weights; at the end, the gradient's scale."""
    lanes = LINE_BYTES * 8 // real.bitwidth

    def reduce_loss(arguments, first_row, last_row):
        scalars = vector(arguments, 0, types.float64)
        row_loss, row_weight = pointer(arguments, 1, real), pointer(arguments, 2, real)
        batch = vector(arguments, 3, types.int64)
        loss = 0.0 if batch[BEGINS] != 0 else scalars[BATCH_LOSS]
        weight = 0.0 if batch[BEGINS] != 0 else scalars[BATCH_WEIGHT]
        loss += sum_of_rows(row_loss, batch[ROWS], lanes)
        weight += sum_of_rows(row_weight, batch[ROWS], lanes)
        scalars[BATCH_LOSS] = loss
        scalars[BATCH_WEIGHT] = weight
        if batch[ENDS] != 0:
            # A batch whose weights are all zero has no loss and no gradient.
            scale = 1.0 / weight if weight > 0.0 else 0.0
            scalars[GRADIENT_SCALE] = scale
            scalars[LOSS] = loss * scale
            scalars[WEIGHTED_LOSS_SUM] += loss
            scalars[WEIGHT_SUM] += weight

    return reduce_loss
