"""Layer normalisation: a warp for each row, whose sums run over the lanes in a fixed order."""

from __future__ import annotations

from fastbp.backends.cuda.intrinsics import (
    height,
    is_present,
    padded_columns,
    pointer,
    pointer_at,
    size,
)
from fastbp.backends.cuda.language import barrier, quotient, remainder, thread
from fastbp.backends.cuda.reductions import WARP, group_sum
from fastbp.backends.cuda.tuning import THREADS
from fastbp.elementary import sqrt

__all__ = ["layer_norm_backward", "layer_norm_forward"]

WARPS = THREADS // WARP


def layer_norm_forward(real, shape):
    """output = gain * (inputs - mean) / sqrt(variance + epsilon) + bias, row by row.

    Where they are not absent, `normalized` is that without gain and bias, `scale` the reciprocal of
    the square root, and the derivative 1.
    """
    panel = shape.columns

    def layer_norm_forward(arguments, first, last, part, place):
        rows_high, padded = height(arguments, 0), padded_columns(arguments, 0)
        has_derivative, is_kept = is_present(arguments, 1), is_present(arguments, 2)
        gain, bias = pointer(arguments, 5, real), pointer(arguments, 6, real)
        epsilon, features = pointer(arguments, 7, real)[0], size(arguments, 8, 0)
        share = real(1.0) / real(features)
        t = thread()
        lane = remainder(t, WARP)
        for row in range(first + quotient(t, WARP), last, WARPS):
            total = real(0.0)
            for begin in range(0, features, panel):
                width = min(panel, padded - begin)
                inputs = pointer_at(arguments, 4, real, begin * rows_high + row * width)
                for j in range(lane, min(width, features - begin), WARP):
                    total += inputs[j]
            mean = group_sum(total, WARP) * share
            squares = real(0.0)
            for begin in range(0, features, panel):
                width = min(panel, padded - begin)
                inputs = pointer_at(arguments, 4, real, begin * rows_high + row * width)
                for j in range(lane, min(width, features - begin), WARP):
                    apart = inputs[j] - mean
                    squares += apart * apart
            scale = real(1.0) / sqrt(group_sum(squares, WARP) * share + epsilon)
            if is_kept and lane == 0:
                pointer(arguments, 3, real)[row] = scale
            for begin in range(0, padded, panel):
                width = min(panel, padded - begin)
                start = begin * rows_high + row * width
                inputs = pointer_at(arguments, 4, real, start)
                for j in range(lane, width, WARP):
                    value, result, slope = real(0.0), real(0.0), real(0.0)
                    if begin + j < features:
                        value = (inputs[j] - mean) * scale
                        result = gain[begin + j] * value + bias[begin + j]
                        slope = real(1.0)
                    pointer_at(arguments, 0, real, start)[j] = result
                    if has_derivative:
                        pointer_at(arguments, 1, real, start)[j] = slope
                    if is_kept:
                        pointer_at(arguments, 2, real, start)[j] = value
        barrier()

    return layer_norm_forward


def layer_norm_backward(real, shape):
    """input_delta *= the delta carried back, or = with `replace`; gain_delta = delta * normalized.

    What is carried back is scale * (d - mean(d) - normalized * mean(d * normalized)) with
    d = delta * gain. Either may be absent.
    """
    panel = shape.columns

    def layer_norm_backward(arguments, first, last, part, place):
        rows_high, padded = height(arguments, 2), padded_columns(arguments, 2)
        goes_on, has_gradient = is_present(arguments, 0), is_present(arguments, 1)
        gain = pointer(arguments, 5, real)
        features, replace = size(arguments, 6, 0), size(arguments, 6, 1)
        share = real(1.0) / real(features)
        t = thread()
        lane = remainder(t, WARP)
        for row in range(first + quotient(t, WARP), last, WARPS):
            scale = pointer(arguments, 4, real)[row]
            total, along = real(0.0), real(0.0)
            for begin in range(0, features, panel):
                width = min(panel, padded - begin)
                start = begin * rows_high + row * width
                delta = pointer_at(arguments, 2, real, start)
                normalized = pointer_at(arguments, 3, real, start)
                for j in range(lane, min(width, features - begin), WARP):
                    change = delta[j] * gain[begin + j]
                    total += change
                    along += change * normalized[j]
            mean = group_sum(total, WARP) * share
            slope = group_sum(along, WARP) * share
            for begin in range(0, padded, panel):
                width = min(panel, padded - begin)
                start = begin * rows_high + row * width
                delta = pointer_at(arguments, 2, real, start)
                normalized = pointer_at(arguments, 3, real, start)
                for j in range(lane, width, WARP):
                    change, of_gain = real(0.0), real(0.0)
                    if begin + j < features:
                        of_gain = delta[j] * normalized[j]
                        change = delta[j] * gain[begin + j] - mean - normalized[j] * slope
                        change = change * scale
                    if has_gradient:
                        pointer_at(arguments, 1, real, start)[j] = of_gain
                    if goes_on:
                        target = pointer_at(arguments, 0, real, start)
                        if replace == 0:
                            change = target[j] * change
                        target[j] = change
        barrier()

    return layer_norm_backward
