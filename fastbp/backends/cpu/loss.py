"""Loss kernels: the loss of each row, and the delta that starts the backward pass.

On entry the last layer's delta holds the derivative of its activation; on return it is multiplied
by the row's sample weight and the derivative of the row's loss. The division by the sum of the
weights waits for the weight pass, so that rows stay independent.
"""

from __future__ import annotations

from numba import types

from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.intrinsics import matrix, pointer, read_tuple, size, vector
from fastbp.elementary import exp, log

__all__ = ["cross_entropy_loss", "elementwise_loss", "reduce_loss"]

ROWS = int(Batch.ROWS)
LOSS, GRADIENT_SCALE = int(Scalar.LOSS), int(Scalar.GRADIENT_SCALE)
WEIGHTED_LOSS_SUM, WEIGHT_SUM = int(Scalar.WEIGHTED_LOSS_SUM), int(Scalar.WEIGHT_SUM)


def elementwise_loss(real, sources, law, setting_count):
    """The mean of an element-wise law over the outputs of each row."""

    def elementwise_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        row_loss = vector(arguments, 0, real)
        row_weight = vector(arguments, 1, real)
        delta = matrix(arguments, 2, real)
        output = matrix(arguments, 3, real)
        targets = matrix(arguments, 4, real)
        weights = vector(arguments, 5, real)
        row_index = vector(arguments, 6, types.int64)
        settings = read_tuple(pointer(arguments, 7, real), 1, setting_count)
        outputs = size(arguments, 8, 0)
        for i in range(first_row, last_row):
            row = row_index[i]
            weight = weights[row] if weights.size > 0 else real(1.0)
            row_weight[i] = weight
            if weight == real(0.0):  # its loss may be infinite, and still counts for nothing
                row_loss[i] = real(0.0)
                delta[i, :outputs] = real(0.0)
                continue
            total = real(0.0)
            for j in range(outputs):
                loss, derivative = law(output[i, j], targets[row, j], settings)
                total += loss
                delta[i, j] *= weight * (derivative / real(outputs))
            row_loss[i] = weight * (total / real(outputs))

    return elementwise_loss


def cross_entropy_loss(real, sources):
    """-log softmax(output)[label]; the derivative is softmax(output) - onehot(label)."""

    def cross_entropy_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        row_loss = vector(arguments, 0, real)
        row_weight = vector(arguments, 1, real)
        delta = matrix(arguments, 2, real)
        output = matrix(arguments, 3, real)
        labels = vector(arguments, 4, types.int64)
        weights = vector(arguments, 5, real)
        row_index = vector(arguments, 6, types.int64)
        outputs = size(arguments, 7, 0)
        for i in range(first_row, last_row):
            row = row_index[i]
            label = labels[row]
            weight = weights[row] if weights.size > 0 else real(1.0)
            row_weight[i] = weight
            if weight == real(0.0):
                row_loss[i] = real(0.0)
                delta[i, :outputs] = real(0.0)
                continue
            largest = output[i, 0]
            for j in range(1, outputs):
                if output[i, j] > largest:
                    largest = output[i, j]
            total = real(0.0)
            for j in range(outputs):
                total += exp(output[i, j] - largest)
            for j in range(outputs):
                share = exp(output[i, j] - largest) / total
                hit = real(1.0) if j == label else real(0.0)
                delta[i, j] *= weight * (share - hit)
            row_loss[i] = weight * (log(total) + (largest - output[i, label]))

    return cross_entropy_loss


def reduce_loss(real, sources):
    """Sum the row losses and weights of the batch in row order; set the gradient's scale."""

    def reduce_loss(arguments, first_row, last_row):
        sources  # noqa: B018
        scalars = vector(arguments, 0, types.float64)
        row_loss = vector(arguments, 1, real)
        row_weight = vector(arguments, 2, real)
        batch = vector(arguments, 3, types.int64)
        loss = 0.0
        weight = 0.0
        for i in range(batch[ROWS]):
            loss += types.float64(row_loss[i])
            weight += types.float64(row_weight[i])
        # A batch whose weights are all zero has no loss and no gradient.
        scale = 1.0 / weight if weight > 0.0 else 0.0
        scalars[GRADIENT_SCALE] = scale
        scalars[LOSS] = loss * scale
        scalars[WEIGHTED_LOSS_SUM] += loss
        scalars[WEIGHT_SUM] += weight

    return reduce_loss
