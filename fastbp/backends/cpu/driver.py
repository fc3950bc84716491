"""The driver: walks a plan's step tables for batch after batch, without Python and without the GIL.

The step tables hold the address of each kernel and of its arguments. A pass is one parallel loop
over row blocks or tiles; inside, kernels run in order. Nothing is summed across the loop, so the
serial and the parallel driver give the same bits.
"""

from __future__ import annotations

import math

from numba import prange

from fastbp.backends.contract import Batch, Scalar, Status
from fastbp.backends.cpu.intrinsics import call_kernel

__all__ = ["run_batches"]

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
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


def run_batches(parallel, sources):
    """Make the driver; `parallel` is named so that the two have cache entries of their own."""

    def run_batches(
        propagation,
        once,
        weight_steps,
        tiles,
        batch,
        scalars,
        learning_rates,
        clip_norm,
        batch_size,
        row_block,
        first_batch,
        last_batch,
    ):
        """Run batches first_batch <= b < last_batch; return (status, batches completed).

        Parameters
        ----------
        propagation, weight_steps : int64 (steps, 2)
            Address of the kernel, address of its arguments.
        once : int64 (3, 2)
            The same for reduce_loss, begin_step and reduce_tiles; address 0 where there is none.
        tiles : int64 (tiles, 5)
            gradient_begin, gradient_end, update_end, first_row, last_row.
        batch, scalars
            The tensors of the same names.
        learning_rates : float64 (batches of the epoch,)
        clip_norm : float
            Infinity for none.
        """
        sources, parallel  # noqa: B018
        steps = propagation.shape[0]
        tile_count = tiles.shape[0]
        for number in range(first_batch, last_batch):
            position = number * batch_size
            rows = min(batch_size, batch[DATA_ROWS] - position)
            batch[POSITION] = position
            batch[ROWS] = rows
            for block in prange((rows + row_block - 1) // row_block):
                first_row = block * row_block
                last_row = min(first_row + row_block, rows)
                for s in range(steps):
                    call_kernel(propagation[s, 0], propagation[s, 1], first_row, last_row)
            if once[0, 0] != 0:
                call_kernel(once[0, 0], once[0, 1], 0, 0)
            if once[1, 0] == 0:  # no update: what is not finite goes into the results
                for t in prange(tile_count):
                    for s in range(tiles[t, 0], tiles[t, 1]):
                        call_kernel(
                            weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                        )
                continue
            if not math.isfinite(scalars[LOSS]):
                return LOSS_NOT_FINITE, number - first_batch
            scalars[STEP] += 1.0
            scalars[LEARNING_RATE] = learning_rates[number]
            scalars[CLIP_SCALE] = 1.0
            call_kernel(once[1, 0], once[1, 1], 0, 0)
            if math.isinf(clip_norm):
                for t in prange(tile_count):
                    for s in range(tiles[t, 0], tiles[t, 2]):
                        call_kernel(
                            weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                        )
                call_kernel(once[2, 0], once[2, 1], 0, 0)
            else:
                for t in prange(tile_count):
                    for s in range(tiles[t, 0], tiles[t, 1]):
                        call_kernel(
                            weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                        )
                call_kernel(once[2, 0], once[2, 1], 0, 0)
                if not math.isfinite(scalars[NORM]):
                    return GRADIENT_NOT_FINITE, number - first_batch
                if scalars[NORM] > clip_norm:
                    scalars[CLIP_SCALE] = clip_norm / scalars[NORM]
                for t in prange(tile_count):
                    for s in range(tiles[t, 1], tiles[t, 2]):
                        call_kernel(
                            weight_steps[s, 0], weight_steps[s, 1], tiles[t, 3], tiles[t, 4]
                        )
            if not math.isfinite(scalars[NORM]):
                return GRADIENT_NOT_FINITE, number - first_batch
            if not math.isfinite(scalars[LOSS]):
                return LOSS_NOT_FINITE, number - first_batch
            scalars[LOSS_SUM] += scalars[LOSS]
            scalars[NORM_SUM] += scalars[NORM]
        return DONE, last_batch - first_batch

    return run_batches
