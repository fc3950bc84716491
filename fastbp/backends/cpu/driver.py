"""The driver: walks a plan's step tables for batch after batch, without Python and without the GIL.

The step tables hold the address of each kernel and of its arguments. A pass is one parallel loop
over workers, each with its share of the rows or of the tiles; inside, kernels run in order. Nothing
is summed across the loop, so the serial and the parallel driver give the same bits.
"""

from __future__ import annotations

import math

from numba import prange
from numba.extending import register_jitable

from fastbp.backends.contract import Batch, Scalar, Status
from fastbp.backends.cpu.intrinsics import call_kernel

__all__ = ["run_batches"]

ROW_UNIT = 8  # rows of a register tile

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
BEGINS, ENDS = int(Batch.BEGINS), int(Batch.ENDS)
STEP, LEARNING_RATE, CLIP_SCALE = (
    int(Scalar.STEP),
    int(Scalar.LEARNING_RATE),
    int(Scalar.CLIP_SCALE),
)
LOSS, NORM = int(Scalar.LOSS), int(Scalar.NORM)
LOSS_SUM, NORM_SUM = int(Scalar.LOSS_SUM), int(Scalar.NORM_SUM)
DONE, LOSS_NOT_FINITE, GRADIENT_NOT_FINITE = (
    int(Status.DONE),
    int(Status.LOSS_NOT_FINITE),
    int(Status.GRADIENT_NOT_FINITE),
)


@register_jitable
def share_of_rows(rows, worker, workers):
    """The row where a worker's share begins: equal shares, in whole register tiles."""
    if worker == workers:
        return rows
    return rows * worker // workers // ROW_UNIT * ROW_UNIT


def run_batches(parallel, sources):
    """Make the driver; `parallel` is named so that the two have cache entries of their own."""

    def run_batches(
        propagation,
        once,
        weight_steps,
        tiles,
        shares,
        batch,
        scalars,
        learning_rates,
        clip_norm,
        sizes,
    ):
        """Run batches first <= b < last of the epoch; return (status, batches completed).

        Parameters
        ----------
        propagation, weight_steps : int64 (steps, 2)
            Address of the kernel, address of its arguments.
        once : int64 (4, 2)
            The same for order_rows, reduce_loss, begin_step and reduce_tiles; address 0 where there
            is none.
        tiles : int64 (tiles, 5)
            gradient_begin, gradient_end, update_end, first_row, last_row.
        shares : int64 (workers + 1,)
            Worker w takes the tiles shares[w] to shares[w + 1].
        batch, scalars
            The tensors of the same names.
        learning_rates : float64 (batches of the epoch,)
        clip_norm : float
            Infinity for none.
        sizes : int64 (5,)
            Rows of a batch, of a segment and of a block; first batch, last batch.
        """
        sources, parallel  # noqa: B018
        batch_size, segment_size, row_block = sizes[0], sizes[1], sizes[2]
        first, last = sizes[3], sizes[4]
        steps = propagation.shape[0]
        workers = shares.shape[0] - 1
        has_update = once[2, 0] != 0
        is_split = has_update and not math.isinf(clip_norm)
        for number in range(first, last):
            position = number * batch_size
            batch_rows = min(batch_size, batch[DATA_ROWS] - position)
            if has_update:
                scalars[STEP] += 1.0
                scalars[LEARNING_RATE] = learning_rates[number]
                scalars[CLIP_SCALE] = 1.0
                call_kernel(once[2, 0], once[2, 1], 0, 0)
            for begin in range(0, batch_rows, segment_size):
                rows = min(segment_size, batch_rows - begin)
                ends = begin + rows == batch_rows
                batch[POSITION] = position + begin
                batch[ROWS] = rows
                batch[BEGINS] = begin == 0
                batch[ENDS] = ends
                call_kernel(once[0, 0], once[0, 1], 0, 0)
                for worker in prange(workers):
                    row = share_of_rows(rows, worker, workers)
                    end = share_of_rows(rows, worker + 1, workers)
                    while row < end:
                        next_row = min(row + row_block, end)
                        for s in range(steps):
                            call_kernel(propagation[s, 0], propagation[s, 1], row, next_row)
                        row = next_row
                if once[1, 0] != 0:
                    call_kernel(once[1, 0], once[1, 1], 0, 0)
                    # No update: what is not finite goes into the results.
                    if ends and has_update and not math.isfinite(scalars[LOSS]):
                        scalars[STEP] -= 1.0
                        return LOSS_NOT_FINITE, number - first
                column = 2 if ends and has_update and not is_split else 1
                for worker in prange(workers):
                    for t in range(shares[worker], shares[worker + 1]):
                        for s in range(tiles[t, 0], tiles[t, column]):
                            call_kernel(
                                weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                            )
            if not has_update:
                continue
            call_kernel(once[3, 0], once[3, 1], 0, 0)
            if is_split:
                if not math.isfinite(scalars[NORM]):
                    return GRADIENT_NOT_FINITE, number - first
                if scalars[NORM] > clip_norm:
                    scalars[CLIP_SCALE] = clip_norm / scalars[NORM]
                for worker in prange(workers):
                    for t in range(shares[worker], shares[worker + 1]):
                        for s in range(tiles[t, 1], tiles[t, 2]):
                            call_kernel(
                                weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                            )
            if not math.isfinite(scalars[NORM]):
                return GRADIENT_NOT_FINITE, number - first
            if not math.isfinite(scalars[LOSS]):
                return LOSS_NOT_FINITE, number - first
            scalars[LOSS_SUM] += scalars[LOSS]
            scalars[NORM_SUM] += scalars[NORM]
        return DONE, last - first

    return run_batches
