"""Loss kernels: the loss of each row, and the delta that starts the backward pass.

On entry the last layer's delta holds the derivative of its activation; on return it is multiplied
by the row's sample weight and the derivative of the row's loss. The division by the sum of the
weights waits for the weight pass, so that rows stay independent.
"""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.elementwise import map_elements
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
from fastbp.backends.cpu.panels import copy_line, panel_width
from fastbp.backends.cpu.vectors import LINE_BYTES
from fastbp.elementary import exp, log

__all__ = ["cross_entropy_loss", "elementwise_loss", "reduce_loss"]

POSITION, ORDER_BEGIN = int(Batch.POSITION), int(Batch.ORDER_BEGIN)
ROWS, BEGINS, ENDS = int(Batch.ROWS), int(Batch.BEGINS), int(Batch.ENDS)
LOSS, GRADIENT_SCALE = int(Scalar.LOSS), int(Scalar.GRADIENT_SCALE)
WEIGHTED_LOSS_SUM, WEIGHT_SUM = int(Scalar.WEIGHTED_LOSS_SUM), int(Scalar.WEIGHT_SUM)
BATCH_LOSS, BATCH_WEIGHT = int(Scalar.BATCH_LOSS), int(Scalar.BATCH_WEIGHT)
CHUNK = 64  # outputs that the law takes at once
FEW = 8  # rows of so many outputs are taken several at a time


def elementwise_loss(real, sources, law, setting_count):
    """The mean of an element-wise law over the outputs of each row."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def elementwise_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, rows_high = pointer(arguments, 2, real), height(arguments, 2)
        padded = padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        targets = pointer(arguments, 4, real)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        batch = pointer(arguments, 7, types.int64)
        shift = batch[POSITION] - batch[ORDER_BEGIN]
        row_index = offset(pointer(arguments, 6, types.int64), shift)
        settings = read_tuple(pointer(arguments, 8, real), 1, setting_count)
        outputs = size(arguments, 9, 0)
        values = stack_array(CHUNK, real)
        wanted = stack_array(CHUNK, real)
        for j in range(CHUNK):  # what a chunk leaves free goes through the law too
            values[j] = real(0.0)
            wanted[j] = real(0.0)
        # The law's own results, one line or more of them at a time.
        losses = stack_array(CHUNK, real)
        slopes = stack_array(CHUNK, real)
        if outputs <= FEW:  # whole rows, as many as fit
            most = CHUNK // outputs
            width = lanes * ((outputs + lanes - 1) // lanes)
            for row in range(first_row, last_row, most):
                rows = min(most, last_row - row)
                for i in range(rows):
                    source = offset(output, (row + i) * width)
                    target = offset(targets, row_index[row + i] * outputs)
                    for j in range(outputs):
                        values[i * outputs + j] = source[j]
                        wanted[i * outputs + j] = target[j]
                lines = (rows * outputs + lanes - 1) // lanes
                map_elements(law, (values, wanted), (settings,), (losses, slopes), lines)
                for i in range(rows):
                    weight = weights[row_index[row + i]] if weighted else real(1.0)
                    row_weight[row + i] = weight
                    change = offset(delta, (row + i) * width)
                    if weight == real(0.0):  # its loss may be infinite, and still counts nothing
                        row_loss[row + i] = real(0.0)
                        for j in range(outputs):
                            change[j] = real(0.0)
                        continue
                    total = real(0.0)
                    for j in range(outputs):
                        total += losses[i * outputs + j]
                        slope = slopes[i * outputs + j] / real(outputs)
                        change[j] *= weight * slope
                    row_loss[row + i] = weight * (total / real(outputs))
            return
        for row in range(first_row, last_row):
            weight = weights[row_index[row]] if weighted else real(1.0)
            row_weight[row] = weight
            target = offset(targets, row_index[row] * outputs)
            total = real(0.0)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                count = min(width, outputs - column)
                place = column * rows_high + row * width
                for j in range(0, width, lanes):
                    copy_line(offset(wanted, j), offset(target, column + j), count - j)
                inputs = (offset(output, place), wanted)
                map_elements(law, inputs, (settings,), (losses, slopes), width // lanes)
                change = offset(delta, place)
                if weight == real(0.0):
                    for j in range(count):
                        change[j] = real(0.0)
                else:
                    for j in range(count):
                        total += losses[j]
                        change[j] *= weight * (slopes[j] / real(outputs))
            row_loss[row] = weight * (total / real(outputs)) if weight != real(0.0) else real(0.0)

    return elementwise_loss


@register_jitable(forceinline=True)
def shifted_exp(value, largest):
    return (exp(value - largest),)


def cross_entropy_loss(real, sources):
    """-log softmax(output)[label]; the derivative is softmax(output) - onehot(label)."""
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = 2 * lanes

    def cross_entropy_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, rows_high = pointer(arguments, 2, real), height(arguments, 2)
        padded = padded_columns(arguments, 2)
        output = pointer(arguments, 3, real)
        labels = pointer(arguments, 4, types.int64)
        weighted, weights = is_present(arguments, 5), pointer(arguments, 5, real)
        batch = pointer(arguments, 7, types.int64)
        shift = batch[POSITION] - batch[ORDER_BEGIN]
        row_index = offset(pointer(arguments, 6, types.int64), shift)
        outputs = size(arguments, 8, 0)
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
            total = real(0.0)
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                values = offset(output, column * rows_high + i * width)
                map_elements(shifted_exp, (values,), (largest,), (shares,), width // lanes)
                for j in range(min(width, outputs - column)):
                    total += shares[j]
            for column in range(0, outputs, panel):
                width = panel_width(padded, column, lanes)
                values = offset(output, column * rows_high + i * width)
                change = offset(delta, column * rows_high + i * width)
                if outputs > panel:  # otherwise they are still there
                    map_elements(shifted_exp, (values,), (largest,), (shares,), width // lanes)
                for j in range(min(width, outputs - column)):
                    hit = real(1.0) if column + j == label else real(0.0)
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
                row_loss[i] = weight * (log(total) + (largest - chosen))

    return cross_entropy_loss


def reduce_loss(real, sources):
    """Add the segment's row losses and weights, in row order; at the end, the gradient's scale."""

    def reduce_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        scalars = vector(arguments, 0, types.float64)
        row_loss, row_weight = pointer(arguments, 1, real), pointer(arguments, 2, real)
        batch = vector(arguments, 3, types.int64)
        loss = 0.0 if batch[BEGINS] != 0 else scalars[BATCH_LOSS]
        weight = 0.0 if batch[BEGINS] != 0 else scalars[BATCH_WEIGHT]
        for i in range(batch[ROWS]):
            loss += types.float64(row_loss[i])
            weight += types.float64(row_weight[i])
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
