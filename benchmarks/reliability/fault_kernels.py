"""Faults in the compiled kernels of propagation, losses and gradients."""

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
)
