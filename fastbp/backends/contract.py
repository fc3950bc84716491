"""What every backend provides: the kernels, their arguments, and who overwrites what.

A plan names kernels of this table; a backend has a function of the same name for each, whose
arguments are the tensors and then the sizes listed here, in this order: outputs first, sizes last.
A kernel works on the rows ``first <= row < last`` of its first tensor (those that run once a batch
ignore them). A batch comes in segments of rows, so that a batch of any size needs the memory of one
segment; gradients add up from segment to segment.

Matrices of the plan lie in panels: the columns 0 to P - 1 of all rows, then the next P, and so on;
the last panel is as many lines wide as it needs. The plan's geometry says how long both are: on the
CPU a panel has 256 bytes and a line 64; on a GPU a panel has 32, 64 or 128 numbers and a line 16
bytes. Columns beyond the matrix's own are padding and hold zeros before and after every kernel. The
kernels of the weight pass count rows through all panels of a parameter: row r of panel p is number
p * rows + r.

Every sum that ends in an element of a matrix runs in an order that is fixed by the shapes of the
network: for dense layers one chain of fused multiply-adds in ascending order of the summed index;
for the outputs of a thin layer on the CPU one such chain for each lane of a line, and then the sum
of these in a fixed tree. So it does not depend on how the rows are divided among threads. A GPU
cuts the rows of a batch, where a sum is over them, into shares that depend on the plan alone: a
chain for each, and the sum of these in their order.

Where the rows of a batch lie in lanes (kernels ``_in_lanes``), a matrix has a row for each feature
or unit and a column for each row of the batch, so that panels hold rows of the batch: 64 of float32
or 32 of float64. A sum over the batch is then one chain for each lane, the sum of the lanes in the
fixed tree for every `ROWS_OF_A_SUM` rows, and a chain of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = ["EPOCH_SUMS", "KERNELS", "ROWS_OF_A_SUM", "Batch", "KernelContract", "Scalar", "Status"]

ROWS_OF_A_SUM = 1024  # of a batch that lies in lanes, before their sums are added up


class Batch(IntEnum):
    """Places in the integer tensor ``batch``."""

    POSITION = 0  # of the segment's first row within the epoch
    ROWS = 1  # rows of this segment
    DATA_ROWS = 2  # rows of the data set
    SHUFFLE = 3  # 1: the epoch visits the rows in the order of fastbp.shuffle
    BITS = 4  # of the shuffle's domain
    BEGINS = 5  # 1: the segment is the first of its batch
    ENDS = 6  # 1: it is the last
    ORDER_BEGIN = 7  # position that the first element of row_index belongs to
    ORDER_END = 8  # position after that of its last one
    COUNT = 9


class Scalar(IntEnum):
    """Places in the float64 tensor ``scalars``."""

    GRADIENT_SCALE = 0  # one over the sum of the batch's sample weights
    CLIP_SCALE = 1  # min(1, clip_norm / norm), or 1
    LEARNING_RATE = 2  # of this step
    STEP = 3  # of the whole run, counted from 1
    LOSS = 4  # objective of the last batch, penalties included
    NORM = 5  # gradient norm of the last batch, before clipping
    LOSS_SUM = 6  # of the objectives of the epoch's batches
    NORM_SUM = 7  # of their gradient norms
    WEIGHTED_LOSS_SUM = 8  # of weight times loss over all rows of the epoch
    WEIGHT_SUM = 9  # of the weights of all rows of the epoch
    BATCH_LOSS = 10  # of weight times loss over the batch's rows so far
    BATCH_WEIGHT = 11  # of their weights
    LOSS_LIMIT = 12  # a batch whose objective is above it ends the run
    AVERAGE_DECAY = 13  # of the moving average of the parameters, from step to step
    AVERAGE_WEIGHT = 14  # sum of the powers of the decay over the steps so far
    AVERAGE_RATE = 15  # one over that: the share of this step's parameters in the average
    COUNT = 16


# What an epoch begins with at zero.
EPOCH_SUMS = [Scalar.LOSS_SUM, Scalar.NORM_SUM, Scalar.WEIGHTED_LOSS_SUM, Scalar.WEIGHT_SUM]


class Status(IntEnum):
    """What a run of batches ended with."""

    DONE = 0
    LOSS_NOT_FINITE = 1
    GRADIENT_NOT_FINITE = 2


@dataclass(frozen=True)
class KernelContract:
    """The arguments of one kernel.

    Attributes
    ----------
    tensors, sizes : tuple of str
        Argument names in order. A law's settings are the last tensor.
    writes : tuple of str
        Tensors that it overwrites; all others are only read.
    updates : tuple of str
        Tensors that it reads and then overwrites in place.
    optional : tuple of str
        Tensors that may be absent: address and sizes 0.
    law : str
        The family whose law it compiles in, or "".
    product : bool
        Whether it calls the matrix product of its backend.
    """

    tensors: tuple[str, ...]
    sizes: tuple[str, ...]
    writes: tuple[str, ...]
    updates: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    law: str = ""
    product: bool = False


KERNELS: dict[str, KernelContract] = {
    # Once a segment, before its propagation pass.
    "order_rows": KernelContract(
        ("row_index", "keys", "batch"),
        (),
        writes=("row_index",),
        updates=("batch",),
    ),
    # Propagation pass: rows of the segment.
    "gather_inputs": KernelContract(
        ("inputs", "data_inputs", "row_index", "batch"),
        ("features",),
        writes=("inputs",),
    ),
    "dense_forward": KernelContract(
        ("output", "derivative", "inputs", "weight", "bias", "settings"),
        ("features", "units", "thin"),
        writes=("output", "derivative"),
        optional=("derivative",),
        law="activation",
        product=True,
    ),
    "elementwise_loss": KernelContract(
        (
            "row_loss",
            "row_weight",
            "delta",
            "output",
            "data_targets",
            "data_weights",
            "row_index",
            "batch",
            "settings",
        ),
        ("outputs",),
        writes=("row_loss", "row_weight"),
        updates=("delta",),
        optional=("data_weights",),
        law="loss",
    ),
    "cross_entropy_loss": KernelContract(
        (
            "row_loss",
            "row_weight",
            "delta",
            "output",
            "data_targets",
            "data_weights",
            "row_index",
            "batch",
        ),
        ("outputs",),
        writes=("row_loss", "row_weight"),
        updates=("delta",),
        optional=("data_weights",),
    ),
    "multiply_cotangent": KernelContract(
        ("delta", "data_cotangent", "batch"),
        ("outputs",),
        writes=(),
        updates=("delta",),
    ),
    "dense_backward_data": KernelContract(
        ("input_delta", "delta", "transposed_weight"),
        ("features", "units", "replace"),
        writes=(),
        updates=("input_delta",),
        product=True,
    ),
    "store_rows": KernelContract(
        ("data_outputs", "source", "batch"),
        ("columns",),
        writes=("data_outputs",),
    ),
    # Layers besides the dense one. A layer whose outputs have no law of their own leaves a
    # derivative of 1; backward steps fill `input_delta` with `replace`, and multiply into it
    # without. Sums over the features of a row are in fixed order, of whatever else is in the block.
    "dropout_forward": KernelContract(
        ("output", "derivative", "inputs", "keys", "batch", "settings"),
        ("columns", "layer", "threshold"),
        writes=("output", "derivative"),
    ),
    "multiply_delta": KernelContract(
        ("input_delta", "delta"),
        ("columns", "replace"),
        writes=(),
        updates=("input_delta",),
    ),
    "layer_norm_forward": KernelContract(
        ("output", "derivative", "normalized", "scale", "inputs", "gain", "bias", "settings"),
        ("features",),
        writes=("output", "derivative", "normalized", "scale"),
        optional=("derivative", "normalized", "scale"),
    ),
    "layer_norm_backward": KernelContract(
        ("input_delta", "gain_delta", "delta", "normalized", "scale", "gain"),
        ("features", "replace"),
        writes=("gain_delta",),
        updates=("input_delta",),
        optional=("input_delta", "gain_delta"),
    ),
    "residual_forward": KernelContract(
        ("output", "derivative", "inputs", "branch"),
        ("columns",),
        writes=("output", "derivative"),
        optional=("derivative",),
    ),
    "residual_backward": KernelContract(
        ("input_delta", "delta", "branch_delta"),
        ("columns", "replace"),
        writes=(),
        updates=("input_delta",),
    ),
    # The same for rows in lanes. `first_row` begins a panel, and whole panels are written: columns
    # beyond the rows of the batch come from inputs of zero, and their deltas are zero.
    "dense_forward_in_lanes": KernelContract(
        ("output", "derivative", "inputs", "weight", "bias", "settings"),
        ("turned",),
        writes=("output", "derivative"),
        law="activation",
        product=True,
    ),
    "dense_backward_data_in_lanes": KernelContract(
        ("input_delta", "delta", "weight"),
        ("turned",),
        writes=(),
        updates=("input_delta",),
        product=True,
    ),
    # Weight pass: rows of the panels of a parameter tensor. dense_step does in one go what the
    # kernels after it do one by one; it may change a weight's bias too, whose sums go to the tile
    # after the weight's only one. A turned weight's delta is its `inputs`.
    "dense_step": KernelContract(
        (
            "parameter",
            "slots",
            "transposed",
            "bias",
            "bias_slots",
            "tile_norm",
            "tile_penalty",
            "penalties",
            "inputs",
            "delta",
            "scalars",
            "batch",
            "coefficients",
            "clip",
        ),
        ("columns", "tile_rows", "first_tile", "turned"),
        writes=("transposed", "tile_norm", "tile_penalty"),
        updates=("parameter", "slots", "bias", "bias_slots"),
        optional=("slots", "transposed", "bias", "bias_slots", "inputs"),
        law="optimizer",
        product=True,
    ),
    "dense_weight_gradient": KernelContract(
        (
            "gradient",
            "tile_norm",
            "tile_penalty",
            "parameter",
            "penalties",
            "inputs",
            "delta",
            "scalars",
            "batch",
        ),
        ("tile_rows", "first_tile"),
        writes=("tile_norm", "tile_penalty"),
        updates=("gradient",),
        optional=("tile_norm", "tile_penalty", "penalties"),
        product=True,
    ),
    "dense_bias_gradient": KernelContract(
        ("gradient", "tile_norm", "tile_penalty", "delta", "scalars", "batch"),
        ("tile_rows", "first_tile"),
        writes=("tile_norm", "tile_penalty"),
        updates=("gradient",),
        optional=("tile_norm", "tile_penalty"),
    ),
    "update_parameters": KernelContract(
        ("parameter", "slots", "gradient", "coefficients", "clip", "scalars"),
        ("columns", "is_weight"),
        writes=(),
        updates=("parameter", "slots", "gradient"),
        optional=("slots",),
        law="optimizer",
    ),
    "transpose_weight": KernelContract(
        ("transposed", "parameter"),
        ("columns",),
        writes=("transposed",),
    ),
    # After all updates. Panels of units, or units of a turned weight, whose rows they are; then
    # lines of a slab.
    "constrain_weight": KernelContract(
        ("parameter", "transposed", "limit"),
        ("columns", "turned"),
        writes=("transposed",),
        updates=("parameter",),
        optional=("transposed",),
    ),
    "average_parameters": KernelContract(
        ("averages", "parameters", "scalars"),
        (),
        writes=(),
        updates=("averages",),
    ),
    # Once a segment, in float64: a sum for each lane of a line, these in a fixed tree, then the
    # rows that do not fill a line.
    "reduce_loss": KernelContract(
        ("scalars", "row_loss", "row_weight", "batch"),
        (),
        writes=(),
        updates=("scalars",),
    ),
    # Once a batch.
    "reduce_tiles": KernelContract(
        ("scalars", "tile_norm", "tile_penalty"),
        ("tiles",),
        writes=(),
        updates=("scalars",),
    ),
    "begin_step": KernelContract(
        ("coefficients", "carry", "scalars", "settings"),
        (),
        writes=("coefficients",),
        updates=("carry",),
        law="optimizer",
    ),
}

# With label smoothing, which is the setting.
KERNELS["smoothed_cross_entropy_loss"] = replace(
    KERNELS["cross_entropy_loss"], tensors=(*KERNELS["cross_entropy_loss"].tensors, "settings")
)

# For rows in lanes these have the same arguments, and none of them needs the product.
for name in (
    "gather_inputs",
    "elementwise_loss",
    "cross_entropy_loss",
    "smoothed_cross_entropy_loss",
    "dense_weight_gradient",
    "dense_bias_gradient",
):
    KERNELS[f"{name}_in_lanes"] = replace(KERNELS[name], product=False)
