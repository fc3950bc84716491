"""Loss kernels: the loss of each row, and the delta that starts the backward pass.

On entry the last layer's delta holds the derivative of its activation; on return it is multiplied
by the row's sample weight and the derivative of the row's loss. The division by the sum of the
weights waits for the weight pass, so that rows stay independent.

A group of lanes of a warp, as many as there are outputs and at most all, has a row.
"""

from __future__ import annotations

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer,
    reader,
    size,
)
from fastbp.backends.cuda.language import (
    barrier,
    offset,
    quotient,
    remainder,
    shared_memory,
    thread,
)
from fastbp.backends.cuda.product import whole_parts
from fastbp.backends.cuda.reductions import WARP, block_sum, group_largest, group_sum
from fastbp.backends.cuda.tuning import THREADS
from fastbp.elementary import exp, log

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


def lanes_of_row(outputs):
    """How many lanes share a row: the least power of two of at least `outputs`, up to a warp."""
    lanes = 1
    while lanes < outputs and lanes < WARP:
        lanes = lanes * 2
    return lanes


def place_of(row, column, rows_high, padded, panel):
    """Where an element of a matrix in panels lies."""
    before = quotient(column, panel) * panel
    return before * rows_high + row * min(panel, padded - before) + column - before


def clearing(real):
    """Make a function that sets what a product reads beyond the outputs of a row to zero."""

    def clear_row(rows, start, column, padded, lanes):
        filled = whole_parts(padded)
        while column < filled:
            rows[start + column] = real(0.0)
            column += lanes

    return clear_row


def elementwise_loss(real, integer, law, setting_count, shape, near):
    """The mean of an element-wise law over the outputs of each row."""
    panel = shape.columns
    _, writes_near = near
    settings_of, clear_row = reader(setting_count), clearing(real)

    def elementwise_loss(arguments, first, last, part, place):
        _, target, stride, _ = place
        rows_high, padded = height(arguments, 2), padded_columns(arguments, 2)
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, output = pointer(arguments, 2, real), pointer(arguments, 3, real)
        targets, weights = pointer(arguments, 4, real), pointer(arguments, 5, real)
        weighted = is_present(arguments, 5)
        row_index = pointer(arguments, 6, integer)
        settings = settings_of(pointer(arguments, 8, real), 1)
        outputs = size(arguments, 9, 0)
        near_rows = offset(shared_memory(real), target)
        lanes = lanes_of_row(outputs)
        t = thread()
        lane, group = remainder(t, lanes), quotient(t, lanes)
        at_a_time = quotient(THREADS, lanes)
        share = real(1.0) / real(outputs)
        begin = first
        while begin < last:
            row = begin + group
            total, weight = real(0.0), real(1.0)
            if row < last:
                data_row = row_index[row]
                if weighted:
                    weight = weights[data_row]
                j = lane
                while j < outputs:
                    at = place_of(row, j, rows_high, padded, panel)
                    loss, slope = law(output[at], targets[data_row * outputs + j], settings)
                    total += loss
                    change = real(0.0)
                    if weight != real(0.0):  # a loss that counts nothing may be infinite
                        change = delta[at] * (slope * share) * weight
                    delta[at] = change
                    if writes_near:
                        near_rows[(row - first) * stride + j] = change
                    j += lanes
                if writes_near:
                    clear_row(near_rows, (row - first) * stride, outputs + lane, padded, lanes)
            total = group_sum(total, lanes)
            if row < last and lane == 0:
                mean = total * share
                row_loss[row] = weight * mean if weight != real(0.0) else real(0.0)
                row_weight[row] = weight
            begin += at_a_time
        barrier()

    return elementwise_loss


def cross_entropy_loss(real, integer, shape, near):
    """-log softmax(output)[label]; the derivative is softmax(output) - onehot(label)."""
    rows_through = cross_entropy(real, integer, shape, near, smooths=False)

    def cross_entropy_loss(arguments, first, last, part, place):
        rows_through(arguments, first, last, part, place)

    return cross_entropy_loss


def smoothed_cross_entropy_loss(real, integer, shape, near):
    """The same for the target (1 - s) onehot(label) + s / outputs; s is the setting."""
    rows_through = cross_entropy(real, integer, shape, near, smooths=True)

    def smoothed_cross_entropy_loss(arguments, first, last, part, place):
        rows_through(arguments, first, last, part, place)

    return smoothed_cross_entropy_loss


def cross_entropy(real, integer, shape, near, smooths):
    """What the kernel does, with label smoothing or with no trace of it."""
    panel = shape.columns
    _, writes_near = near
    clear_row = clearing(real)

    def rows_through(arguments, first, last, part, place):
        _, target, stride, _ = place
        rows_high, padded = height(arguments, 2), padded_columns(arguments, 2)
        row_loss, row_weight = pointer(arguments, 0, real), pointer(arguments, 1, real)
        delta, output = pointer(arguments, 2, real), pointer(arguments, 3, real)
        labels, weights = pointer(arguments, 4, integer), pointer(arguments, 5, real)
        weighted = is_present(arguments, 5)
        row_index = pointer(arguments, 6, integer)
        outputs = size(arguments, 9 if smooths else 8, 0)
        spread = real(0.0)  # to every class
        if smooths:
            smoothing = pointer(arguments, 8, real)[0]
            spread = smoothing / real(outputs)
        near_rows = offset(shared_memory(real), target)
        lanes = lanes_of_row(outputs)
        t = thread()
        lane, group = remainder(t, lanes), quotient(t, lanes)
        at_a_time = quotient(THREADS, lanes)
        begin = first
        while begin < last:
            row = begin + group
            here = row < last
            seen = row if here else first  # lanes without a row follow another one's
            data_row = row_index[seen]
            label = labels[data_row]
            weight = real(1.0)
            if weighted:
                weight = weights[data_row]
            largest = output[place_of(seen, min(lane, outputs - 1), rows_high, padded, panel)]
            j = lane
            while j < outputs:
                value = output[place_of(seen, j, rows_high, padded, panel)]
                # A NaN stays: nothing is larger than it, and the sum below meets it anyway.
                largest = value if value > largest else largest
                j += lanes
            largest = group_largest(largest, lanes)
            total, apart = real(0.0), real(0.0)
            j = lane
            while j < outputs:
                value = output[place_of(seen, j, rows_high, padded, panel)]
                total += exp(value - largest)
                if smooths:
                    apart += spread * (largest - value)
                j += lanes
            total = group_sum(total, lanes)
            if smooths:
                apart = group_sum(apart, lanes)
            if here:
                j = lane
                while j < outputs:
                    at = place_of(row, j, rows_high, padded, panel)
                    hit = real(1.0) if j == label else real(0.0)
                    if smooths:
                        hit = hit * (real(1.0) - pointer(arguments, 8, real)[0]) + spread
                    change = real(0.0)
                    if weight != real(0.0):
                        share = exp(output[at] - largest) / total
                        change = delta[at] * (weight * (share - hit))
                    delta[at] = change
                    if writes_near:
                        near_rows[(row - first) * stride + j] = change
                    j += lanes
                if writes_near:
                    clear_row(near_rows, (row - first) * stride, outputs + lane, padded, lanes)
                if lane == 0:
                    if smooths:  # read again: float64 has no registers to keep it all this time
                        data_row = row_index[row]
                        if weighted:
                            weight = weights[data_row]
                        label = labels[data_row]
                    chosen = output[place_of(row, label, rows_high, padded, panel)]
                    missed = largest - chosen
                    if smooths:
                        missed = (real(1.0) - pointer(arguments, 8, real)[0]) * missed + apart
                    loss = weight * (log(total) + missed)
                    loss = loss if weight != real(0.0) else real(0.0)
                    if smooths:
                        pointer(arguments, 0, real)[row] = loss
                        pointer(arguments, 1, real)[row] = weight
                    else:
                        row_loss[row] = loss
                        row_weight[row] = weight
            begin += at_a_time
        barrier()

    return rows_through


def reduce_loss(real, integer, wide):
    """Add up the segment's row losses and weights; at the end, the gradient's scale.

    One block. Each thread sums every 256th row in float64, and then all are summed in a tree.
    """

    def reduce_loss(arguments, first, last, part, place):
        scalars = pointer(arguments, 0, wide)
        row_loss, row_weight = pointer(arguments, 1, real), pointer(arguments, 2, real)
        batch = pointer(arguments, 3, integer)
        memory = shared_memory(wide)
        loss, weight = wide(0.0), wide(0.0)
        for i in range(thread(), batch[ROWS], THREADS):
            loss += wide(row_loss[i])
            weight += wide(row_weight[i])
        loss, weight = block_sum(loss, memory), block_sum(weight, memory)
        if thread() == 0:
            if batch[BEGINS] == 0:
                loss += scalars[BATCH_LOSS]
                weight += scalars[BATCH_WEIGHT]
            scalars[BATCH_LOSS] = loss
            scalars[BATCH_WEIGHT] = weight
            if batch[ENDS] != 0:
                # A batch whose weights are all zero has no loss and no gradient.
                scale = wide(1.0) / weight if weight > wide(0.0) else wide(0.0)
                scalars[GRADIENT_SCALE] = scale
                scalars[LOSS] = loss * scale
                scalars[WEIGHTED_LOSS_SUM] += loss
                scalars[WEIGHT_SUM] += weight
        barrier()

    return reduce_loss
