"""Faults in the kernels of steps, of layers and of rows in lanes, and in the driver."""

from __future__ import annotations

from benchmarks.reliability.fault_tables import Fault, in_rooms

__all__ = ["STEP_FAULTS"]

CPU = "backends/cpu/"

STEP_FAULTS: list[Fault] = in_rooms(
    (
        CPU + "step.py",
        "training",
        [
            (
                "a step's gradient is not divided by the sum of the weights",
                "squares = scale_and_square(gradient, lines, scale)",
                "squares = scale_and_square(gradient, lines, real(1.0))",
            ),
            (
                "gradients are not clipped by value",
                "map_elements(clipped, (gradient,), (real(1.0), bound), (gradient,), lines)",
                "pass",
            ),
            (
                "weight decay takes biases too",
                "(coefficients, real(1.0) if is_weight else real(0.0)),",
                "(coefficients, real(1.0)),",
            ),
            (
                "the other way round of a weight is not updated",
                "if is_present(arguments, 2):",
                "if first < 0:",
            ),
            (
                "the second slot is taken from within the first",
                "elements = height(arguments, position) * padded",
                "elements = count",
            ),
        ],
    ),
    (
        CPU + "step.py",
        "kernels",
        [
            (
                "penalties take the biases too",
                "l1, l2, tile = real(0.0), real(0.0), tile + 1",
                "tile = tile + 1",
            ),
        ],
    ),
    (
        CPU + "step.py",
        "buffers",
        [
            (
                "padding of changed weights is not cleared",
                "clear_padding(parameter, rows, width, columns - column)",
                "pass",
            ),
        ],
    ),
    (
        CPU + "update.py",
        "training",
        [
            (
                "values are clipped before the norm, not after it",
                "scaled = gradient * scale\n"
                "    above = bound if scaled > bound else scaled\n"
                "    return (-bound if above < -bound else above,)",
                "above = bound if gradient > bound else gradient\n"
                "    return ((-bound if above < -bound else above) * scale,)",
            ),
            (
                "the penalty is missing in the objective",
                "scalars[LOSS] += penalty",
                "pass",
            ),
            (
                "a gradient's norm is its square",
                "scalars[NORM] = math.sqrt(norm)",
                "scalars[NORM] = norm",
            ),
            (
                "the optimizer's running scalars are not kept",
                "write_tuple(carry, 1, carried)",
                "pass",
            ),
        ],
    ),
    (
        CPU + "update.py",
        "kernels",
        [
            (
                "the other way round of a weight: panels in the wrong place",
                "other_width + i - other",
                "other_width + i % lanes",
            ),
        ],
    ),
    (
        CPU + "driver.py",
        "training",
        [
            (
                "the last, smaller batch is dropped",
                "batch_rows = min(batch_size, data_rows - position)",
                "batch_rows = batch_size if position + batch_size <= data_rows else 0",
            ),
            (
                "a clipped step clips the next ones too",
                "scalars[CLIP_SCALE] = 1.0",
                "pass",
            ),
            (
                "gradients are clipped where they are small",
                "elif scalars[NORM] > clip_norm:",
                "elif scalars[NORM] < clip_norm:",
            ),
            (
                "steps are counted from one again in each epoch",
                "scalars[STEP] += 1.0",
                "scalars[STEP] = number + 1.0",
            ),
            (
                "the loss of an epoch is that of its last batch",
                "scalars[LOSS_SUM] += scalars[LOSS]",
                "scalars[LOSS_SUM] = scalars[LOSS]",
            ),
        ],
    ),
    (
        CPU + "driver.py",
        "history",
        [
            (
                "every step has the learning rate of the epoch's first",
                "scalars[LEARNING_RATE] = learning_rates[number]",
                "scalars[LEARNING_RATE] = learning_rates[0]",
            ),
        ],
    ),
    (
        CPU + "driver.py",
        "workers",
        [
            (
                "rows that are left over are missed by several workers",
                "    if worker == workers:\n        return rows\n",
                "    if worker == workers:\n        return rows // unit * unit\n",
            ),
        ],
    ),
    (
        CPU + "driver.py",
        "divergence",
        [
            (
                "a loss that is not finite is found after the step",
                "if ends and has_update and not math.isfinite(scalars[LOSS]):",
                "if ends and has_update and scalars[LOSS] < -1e300:",
            ),
        ],
    ),
    (
        CPU + "lanes/gradient.py",
        "gradients_in_lanes",
        [
            (
                "rows in lanes: gradients of earlier segments are forgotten",
                "batch[BEGINS] != 0,\n            high,",
                "True,\n            high,",
            ),
        ],
    ),
    (
        CPU + "lanes/gradient.py",
        "training",
        [
            (
                "rows in lanes: a penalty counts only where there are two",
                "if l1 != real(0.0) or l2 != real(0.0):",
                "if l1 != real(0.0) and l2 != real(0.0):",
            ),
        ],
    ),
    (
        CPU + "lanes/loss.py",
        "gradients_in_lanes",
        [
            (
                "rows in lanes: the gradient is not divided by the outputs",
                "return loss, slope * (derivative * share)",
                "return loss, slope * derivative",
            ),
            (
                "rows in lanes: lanes beyond the batch count",
                "for i in range(rows, width):\n                weight[i] = real(0.0)",
                "for i in range(rows, width):\n                weight[i] = real(1.0)",
            ),
            (
                "rows in lanes: every panel has the labels of the first",
                "label[i] = real(labels[data_row])",
                "label[i] = real(labels[i])",
            ),
        ],
    ),
    (
        CPU + "lanes/propagation.py",
        "gradients_in_lanes",
        [
            (
                "rows in lanes: backward multiplies by the weight, not transposed",
                "not turned,",
                "turned,",
            ),
            (
                "rows in lanes: every run of units gets the first biases",
                "spread(starts, offset(bias, unit), count)",
                "spread(starts, bias, count)",
            ),
        ],
    ),
    (
        CPU + "predict_rows.py",
        "predictions",
        [
            (
                "few rows: the scale of the first target serves all",
                "* scaling[3 * columns + j]",
                "* scaling[3 * columns]",
            ),
            (
                "few rows: changed parameters are not seen",
                "changed |= ours[i] ^ loaded[i]",
                "changed |= ours[i] & ~ours[i]",
            ),
        ],
    ),
    (
        CPU + "update.py",
        "averages",
        [
            (
                "an average adds up and does not fade",
                "return (average + rate * (parameter - average),)",
                "return (average + rate * parameter,)",
            ),
        ],
    ),
    (
        CPU + "driver.py",
        "averages",
        [
            (
                "an average begins at zero and is not corrected for it",
                "scalars[AVERAGE_WEIGHT], scalars[AVERAGE_RATE] = weight, 1.0 / weight",
                "scalars[AVERAGE_WEIGHT] = weight\n"
                "                    scalars[AVERAGE_RATE] = 1.0 - scalars[AVERAGE_DECAY]",
            ),
        ],
    ),
    (
        CPU + "constraint.py",
        "constraints",
        [
            (
                "only a unit's last weights count in the norm that is held",
                "squares += sum_of_squares(",
                "squares = sum_of_squares(",
            ),
            (
                "the other way round of a weight does not follow the norm",
                "if is_present(arguments, 1):",
                "if first < 0:",
            ),
        ],
    ),
    (
        CPU + "normalization.py",
        "layers",
        [
            (
                "padding counts in a row's variance",
                "deviation = builder.select(inside, deviation, nothing)",
                "pass",
            ),
            (
                "normalisation carries the mean of a delta back",
                "value = builder.fsub(through, mean)",
                "value = through",
            ),
            (
                "normalisation forgets epsilon",
                "variance = builder.fadd(variance, splat(builder, epsilon, count))",
                "pass",
            ),
        ],
    ),
    (
        CPU + "residual.py",
        "layers",
        [
            (
                "what goes past a residual block is multiplied, what goes through is not",
                "return (factor * (a + b),)",
                "return (factor * a + b,)",
            ),
        ],
    ),
    (
        CPU + "masks.py",
        "layers",
        [
            (
                "dropout keeps what it should drop",
                'keep = builder.icmp_unsigned(">=", word, limit)',
                'keep = builder.icmp_unsigned("<", word, limit)',
            ),
            (
                "every batch has the masks of the first",
                "row_keys(words, position + first, layer, keys, rows)",
                "row_keys(words, first, layer, keys, rows)",
            ),
        ],
    ),
)
