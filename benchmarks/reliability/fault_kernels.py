"""Faults in the compiled kernels and in the driver."""

from __future__ import annotations

from benchmarks.reliability.fault_tables import Fault, in_rooms

__all__ = ["KERNEL_FAULTS"]

CPU = "backends/cpu/"

KERNEL_FAULTS: list[Fault] = in_rooms(
    (
        CPU + "dense.py",
        "gradients",
        [
            (
                "every panel of units gets the bias of the first",
                "offset(bias, column) if begin == 0 else target,",
                "bias if begin == 0 else target,",
            ),
            (
                "the delta is multiplied by the derivative itself",
                "map_elements(multiplied, (target, scratch), (), (target,), lines)",
                "map_elements(multiplied, (target, target), (), (target,), lines)",
            ),
            (
                "a single row's delta is not multiplied into the derivative",
                "units, scales = size(arguments, 3, 1), size(arguments, 3, 2) == 0",
                "units, scales = size(arguments, 3, 1), size(arguments, 3, 2) != 0",
            ),
            (
                "a single row's panels all get the bias of the first",
                "start = offset(pointer(arguments, 4, real), column)",
                "start = pointer(arguments, 4, real)",
            ),
            (
                "backward takes every panel from the first panel of the weight",
                "offset(weight, column * units),",
                "weight,",
            ),
        ],
    ),
    (
        CPU + "dense.py",
        "gradients_of_large_batches",
        [
            (
                "sums over deep layers begin anew in each block",
                "0 if begin == 0 else width,\n                            inputs,",
                "0,\n                            inputs,",
            ),
        ],
    ),
    (
        CPU + "dense.py",
        "kernels",
        [
            (
                "padding of the outputs is not cleared",
                "clear_padding(target, rows, width, units - column)",
                "pass",
            ),
        ],
    ),
    (
        CPU + "rows.py",
        "kernels",
        [
            (
                "every batch reads the rows of the first",
                "shift = places[POSITION] - places[ORDER_BEGIN]",
                "shift = 0",
            ),
            (
                "the shuffled order begins anew where it is worked out again",
                "index[j] = begin + i + j",
                "index[j] = i + j",
            ),
            (
                "outputs of later batches are written over those of the first",
                "target = offset(data, (position + i) * columns)",
                "target = offset(data, i * columns)",
            ),
            (
                "cotangents of the first rows are used for all batches",
                "source = offset(cotangent, (position + i) * outputs)",
                "source = offset(cotangent, i * outputs)",
            ),
        ],
    ),
    (
        CPU + "loss.py",
        "gradients",
        [
            (
                "the gradient is not divided by the number of outputs",
                "map_elements(multiplied, (slopes,), (share,), (slopes,), lines)",
                "map_elements(multiplied, (slopes,), (real(1.0),), (slopes,), lines)",
            ),
            (
                "the same, of a single row",
                "return loss, slope * share",
                "return loss, slope",
            ),
            (
                "sample weights count in the loss, but not in the gradient",
                "change[at] = weight * change[at] if weight != real(0.0) else weight",
                "change[at] = change[at] if weight != real(0.0) else weight",
            ),
            (
                "labels beyond the first panel of outputs are missed",
                "hit = real(1.0) if column + j == label else real(0.0)",
                "hit = real(1.0) if j == label else real(0.0)",
            ),
            (
                "the sign of cross-entropy's gradient",
                "change[j] *= weight * (shares[j] / total - hit)",
                "change[j] *= weight * (hit - shares[j] / total)",
            ),
            (
                "the largest output is not put back into the logarithm",
                "row_loss[i] = weight * (log(total) + (largest - chosen))",
                "row_loss[i] = weight * (log(total) - chosen)",
            ),
            (
                "only the last panel of outputs counts in a row's loss",
                "total = row_loss[first + i] if column > 0 else real(0.0)",
                "total = real(0.0)",
            ),
        ],
    ),
    (
        CPU + "loss.py",
        "gradients_of_large_batches",
        [
            (
                "the loss of a batch is that of its last segment",
                "loss = 0.0 if batch[BEGINS] != 0 else scalars[BATCH_LOSS]",
                "loss = 0.0",
            ),
            (
                "the gradient is divided by rows, not by the sum of the weights",
                "scale = 1.0 / weight if weight > 0.0 else 0.0",
                "scale = 1.0 / batch[ROWS] if weight > 0.0 else 0.0",
            ),
        ],
    ),
    (
        CPU + "loss.py",
        "kernels",
        [
            (
                "the last row's loss is dropped where lines are not full",
                "for i in range(lines * lanes, rows):",
                "for i in range(lines * lanes, rows - 1):",
            ),
        ],
    ),
    (
        CPU + "loss.py",
        "reuse",
        [
            (
                "only the last chunk's weights count in a loss of many rows",
                "scalars[WEIGHT_SUM] += weight",
                "scalars[WEIGHT_SUM] = weight",
            ),
        ],
    ),
    (
        CPU + "loss.py",
        "refusals",
        [
            (
                "an infinite loss of weight zero counts",
                "row_loss[i] = mean if weight != real(0.0) else weight",
                "row_loss[i] = mean",
            ),
        ],
    ),
    (
        CPU + "packing.py",
        "gradients",
        [
            (
                "the last output is missed in a row's loss",
                "for j in range(1, count):",
                "for j in range(1, count - 1):",
            ),
        ],
    ),
    (
        CPU + "gradient.py",
        "training",
        [
            (
                "the l1 penalty has no gradient",
                "return (gradient + l2 * parameter + pull,)",
                "return (gradient + l2 * parameter,)",
            ),
            (
                "the l2 penalty is counted twice in the objective",
                "return 0.5 * types.float64(l2) * squares",
                "return types.float64(l2) * squares",
            ),
            (
                "the norm that clips is that of the gradient without penalties",
                "                        squares = sum_of_squares(target, lines)\n",
                "                        pass\n",
            ),
        ],
    ),
    (
        CPU + "gradient.py",
        "gradients",
        [
            (
                "only the last 64 rows of a batch count in a weight's gradient",
                "start, start_stride = target, width",
                "pass",
            ),
            (
                "the third line of a bias has no gradient",
                "add_columns(target, source, between, rows, 1, 3)",
                "add_columns(target, source, between, rows, 1, 2)",
            ),
        ],
    ),
    (
        CPU + "gradient.py",
        "reuse",
        [
            (
                "a weight's gradient adds to what the buffer holds",
                "nothing if begins else target,\n                0 if begins else width,",
                "target,\n                width,",
            ),
            (
                "a bias's gradient adds to what the buffer holds",
                "        if batch[BEGINS] != 0:\n            for j in range(begin, end):",
                "        if batch[BEGINS] < 0:\n            for j in range(begin, end):",
            ),
        ],
    ),
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
        "refusals",
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
        CPU + "product.py",
        "gradients",
        [
            (
                "a product's last odd row is not computed",
                "LOWER_HEIGHTS = (8, 4, 2, 1)",
                "LOWER_HEIGHTS = (8, 4, 2)",
            ),
        ],
    ),
    (
        CPU + "single_row.py",
        "gradients",
        [
            (
                "a single row's delta is added to the derivative",
                "scaled = builder.fmul(line(target, i), value)",
                "scaled = builder.fadd(line(target, i), value)",
            ),
        ],
    ),
    (
        CPU + "single_row.py",
        "training",
        [
            (
                "the gradient of one row is not divided by its weight",
                "scaled = builder.fmul(value, scales)",
                "scaled = value",
            ),
        ],
    ),
    (
        CPU + "reductions.py",
        "gradients",
        [
            (
                "sums of losses, norms and weights leave out a line",
                "for c in range(CHAINS - 1):",
                "for c in range(CHAINS - 2):",
            ),
            (
                "thin layers have no bias",
                "store(builder, builder.fadd(start, outputs), at(builder, target, place))",
                "store(builder, outputs, at(builder, target, place))",
            ),
        ],
    ),
    (
        CPU + "panels.py",
        "kernels",
        [
            (
                "padding is cleared one column too late",
                'keep = builder.icmp_signed("<", lane,',
                'keep = builder.icmp_signed("<=", lane,',
            ),
        ],
    ),
    (
        CPU + "elementary/coefficients.py",
        "elementary",
        [
            (
                "a coefficient of exp is off by one part in 100 million",
                "0.04166666666666669,",
                "0.04166666708333336,",
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
)
