"""The driver: walks a plan's step tables for batch after batch, without Python and without the GIL.

The step tables hold the address of each kernel and of its arguments. All workers run the same
function: each goes through all batches and does its share of the rows and of the tiles; worker 0
also does what is done once. They meet twice a segment: after the propagation pass, when worker 0
sums the losses, and after the weight pass, when it sums up the batch and orders the next rows.

Nothing is summed across workers but by worker 0, in a fixed order, so any number of them gives the
same bits. The serial driver is the same function without meetings.
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

from fastbp.backends.contract import Batch, Scalar, Status
from fastbp.backends.cpu.intrinsics import as_pointer, call_kernel
from fastbp.backends.cpu.job import Job
from fastbp.backends.cpu.synchronization import arrive, await_all, await_release, release

__all__ = ["run_batches"]

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
BEGINS, ENDS = int(Batch.BEGINS), int(Batch.ENDS)
ORDER_BEGIN, ORDER_END = int(Batch.ORDER_BEGIN), int(Batch.ORDER_END)
STEP, LEARNING_RATE, CLIP_SCALE = (
    int(Scalar.STEP),
    int(Scalar.LEARNING_RATE),
    int(Scalar.CLIP_SCALE),
)
LOSS, NORM, LOSS_LIMIT = int(Scalar.LOSS), int(Scalar.NORM), int(Scalar.LOSS_LIMIT)
AVERAGE_DECAY, AVERAGE_WEIGHT = int(Scalar.AVERAGE_DECAY), int(Scalar.AVERAGE_WEIGHT)
AVERAGE_RATE = int(Scalar.AVERAGE_RATE)
LOSS_SUM, NORM_SUM = int(Scalar.LOSS_SUM), int(Scalar.NORM_SUM)
FINE, LOSS_NOT_FINITE, GRADIENT_NOT_FINITE = (
    int(Status.DONE),
    int(Status.LOSS_NOT_FINITE),
    int(Status.GRADIENT_NOT_FINITE),
)
RESULT, DONE = int(Job.RESULT), int(Job.DONE)
PROPAGATION, STEPS, ONCE = int(Job.PROPAGATION), int(Job.STEPS), int(Job.ONCE)
WEIGHT_STEPS, TILES, SHARES = int(Job.WEIGHT_STEPS), int(Job.TILES), int(Job.SHARES)
BATCH, SCALARS = int(Job.BATCH), int(Job.SCALARS)
LEARNING_RATES, CLIP_NORM = int(Job.LEARNING_RATES), int(Job.CLIP_NORM)
BATCH_ROWS, SEGMENT_ROWS, ROW_BLOCK = (
    int(Job.BATCH_ROWS),
    int(Job.SEGMENT_ROWS),
    int(Job.ROW_BLOCK),
)
FIRST, LAST, TEAM, ROW_UNIT = int(Job.FIRST), int(Job.LAST), int(Job.TEAM), int(Job.ROW_UNIT)
ROUNDS, ROUND_STEPS = int(Job.ROUNDS), int(Job.ROUND_STEPS)
ROUND_TILES, ROUND_SHARES = int(Job.ROUND_TILES), int(Job.ROUND_SHARES)

# Rows of the table `once`, each the address of a kernel and of its arguments.
ORDER_ROWS, REDUCE_LOSS, BEGIN_STEP, REDUCE_TILES = 0, 2, 4, 6


@register_jitable
def share_of_rows(rows, worker, workers, unit):
    """The row where a worker's share begins: equal shares, multiples of a unit."""
    if worker == workers:
        return rows
    return rows * worker // workers // unit * unit


@register_jitable
def call_once(once, row):
    """Call one of the kernels that run once a segment or a batch."""
    call_kernel(once[row], once[row + 1], 0, 0)


@register_jitable
def propagate(steps, count, row, end, row_block):
    """All steps of the propagation pass on a share of the rows, block by block."""
    while row < end:
        next_row = min(row + row_block, end)
        for s in range(count):
            call_kernel(steps[2 * s], steps[2 * s + 1], row, next_row)
        row = next_row


@register_jitable
def change_weights(steps, tiles, first_tile, last_tile, begin, end):
    """The steps between two columns of the table of tiles, on a share of the tiles."""
    for t in range(5 * first_tile, 5 * last_tile, 5):
        for s in range(2 * tiles[t + begin], 2 * tiles[t + end], 2):
            call_kernel(steps[s], steps[s + 1], tiles[t + 3], tiles[t + 4])


# A barrier in two halves: all join a meeting, and worker 0 opens it, which lets the others go on.
# Between the two worker 0 does what is done once, alone. Meetings are numbered within a job.


@register_jitable
def join_meeting(team, worker, workers, number):
    """Say that this worker's share is done; worker 0 waits until all have said so."""
    if worker == 0:
        await_all(team, workers, number)
    else:
        arrive(team, worker, number)


@register_jitable
def open_meeting(team, job, worker, status, number):
    """Let all go on, with the status of worker 0, which is returned."""
    if worker == 0:
        job[RESULT] = status
        release(team, number)
        return status
    await_release(team, number)
    return job[RESULT]


@register_jitable
def end_run(job, worker, status, done):
    """Write how the run ended and how many batches were completed."""
    if worker == 0:
        job[RESULT], job[DONE] = status, done


def run_batches(real, parallel):
    """Make the driver, with barriers or without."""
    parallel = bool(parallel)

    def run_batches(job, worker, workers):
        """Run batches first <= b < last of the epoch; write status and batches completed.

        The places of `job` name, by their addresses,

        propagation, weight_steps : int64 (steps, 2)
            Address of the kernel, address of its arguments.
        once : int64 (4, 2)
            The same for order_rows, reduce_loss, begin_step and reduce_tiles; address 0 where there
            is none.
        tiles : int64 (tiles, 5)
            gradient_begin, gradient_end, update_end, first_row, last_row.
        shares : int64 (workers + 1,)
            Worker w takes the tiles shares[w] to shares[w + 1].
        round_steps, round_tiles, round_shares
            The same for the rounds after the updates; a row of shares for each.
        batch, scalars
            The tensors of the same names.
        learning_rates : float64 (batches of the epoch,)
        clip_norm : float64 (1,)
            Infinity for none.
        team
            What the workers share; the parallel driver's.

        A worker that has joined its last meeting looks at none of these any more.
        """
        steps, step_count = as_pointer(job[PROPAGATION], types.int64), job[STEPS]
        once = as_pointer(job[ONCE], types.int64)
        weight_steps = as_pointer(job[WEIGHT_STEPS], types.int64)
        tiles = as_pointer(job[TILES], types.int64)
        shares = as_pointer(job[SHARES], types.int64)
        batch = as_pointer(job[BATCH], types.int64)
        scalars = as_pointer(job[SCALARS], types.float64)
        learning_rates = as_pointer(job[LEARNING_RATES], types.float64)
        clip_norm = as_pointer(job[CLIP_NORM], types.float64)[0]
        team = as_pointer(job[TEAM], types.int64)
        batch_size, row_block, row_unit = job[BATCH_ROWS], job[ROW_BLOCK], job[ROW_UNIT]
        segment_size = max(job[SEGMENT_ROWS], 1)  # a range of no steps would raise
        first, last, data_rows = job[FIRST], job[LAST], batch[DATA_ROWS]
        first_tile, last_tile = shares[worker], shares[worker + 1]
        leads = worker == 0 or not parallel
        round_steps = as_pointer(job[ROUND_STEPS], types.int64)
        round_tiles = as_pointer(job[ROUND_TILES], types.int64)
        round_shares = as_pointer(job[ROUND_SHARES], types.int64)
        rounds = job[ROUNDS]
        has_update, has_loss = once[BEGIN_STEP] != 0, once[REDUCE_LOSS] != 0
        has_weight_pass = shares[workers] > 0
        is_split = has_update and not math.isinf(clip_norm)
        status = FINE
        meeting = 0
        for number in range(first, last):
            position = number * batch_size
            batch_rows = min(batch_size, data_rows - position)
            for begin in range(0, batch_rows, segment_size):
                rows = min(segment_size, batch_rows - begin)
                ends = begin + rows == batch_rows
                if leads:
                    place = position + begin
                    batch[POSITION] = place
                    batch[ROWS] = rows
                    batch[BEGINS] = begin == 0
                    batch[ENDS] = ends
                    # Asked here, because a call for nothing is felt where a batch is one row.
                    if place < batch[ORDER_BEGIN] or place + rows > batch[ORDER_END]:
                        call_once(once, ORDER_ROWS)
                if parallel:
                    meeting += 1
                    status = open_meeting(team, job, worker, status, meeting)
                    if status != FINE:
                        join_meeting(team, worker, workers, meeting + 1)
                        return
                row, end = 0, rows
                if parallel:
                    row = share_of_rows(rows, worker, workers, row_unit)
                    end = share_of_rows(rows, worker + 1, workers, row_unit)
                propagate(steps, step_count, row, end, row_block)
                if leads and begin == 0 and has_update:
                    scalars[STEP] += 1.0
                    scalars[LEARNING_RATE] = learning_rates[number]
                    scalars[CLIP_SCALE] = 1.0
                    weight = scalars[AVERAGE_DECAY] * scalars[AVERAGE_WEIGHT] + 1.0
                    scalars[AVERAGE_WEIGHT], scalars[AVERAGE_RATE] = weight, 1.0 / weight
                    call_once(once, BEGIN_STEP)
                if parallel and (has_loss or has_weight_pass):
                    meeting += 1
                    join_meeting(team, worker, workers, meeting)
                if leads and has_loss:
                    call_once(once, REDUCE_LOSS)
                    # No update: what is not finite goes into the results.
                    if ends and has_update and not math.isfinite(scalars[LOSS]):
                        scalars[STEP] -= 1.0
                        status = LOSS_NOT_FINITE
                if parallel and (has_loss or has_weight_pass):
                    status = open_meeting(team, job, worker, status, meeting)
                if status == FINE:
                    column = 2 if ends and has_update and not is_split else 1
                    change_weights(weight_steps, tiles, first_tile, last_tile, 0, column)
                if parallel:
                    meeting += 1
                    join_meeting(team, worker, workers, meeting)
                if status != FINE:
                    end_run(job, worker, status, number - first)
                    return
            if not has_update:
                continue
            if leads:
                call_once(once, REDUCE_TILES)
            if is_split:
                if leads:
                    if not math.isfinite(scalars[NORM]):
                        status = GRADIENT_NOT_FINITE
                    elif scalars[NORM] > clip_norm:
                        scalars[CLIP_SCALE] = clip_norm / scalars[NORM]
                if parallel:
                    status = open_meeting(team, job, worker, status, meeting)
                if status == FINE:
                    change_weights(weight_steps, tiles, first_tile, last_tile, 1, 2)
                if parallel:
                    meeting += 1
                    join_meeting(team, worker, workers, meeting)
                if status != FINE:
                    end_run(job, worker, status, number - first)
                    return
            if leads:
                if not math.isfinite(scalars[NORM]):
                    status = GRADIENT_NOT_FINITE
                elif not math.isfinite(scalars[LOSS]) or scalars[LOSS] > scalars[LOSS_LIMIT]:
                    status = LOSS_NOT_FINITE
                # The others wait for a round, or for the next batch.
                if status != FINE and rounds == 0:
                    if parallel and number + 1 < last:
                        meeting += 1
                        open_meeting(team, job, worker, status, meeting)
                        join_meeting(team, worker, workers, meeting + 1)
                    end_run(job, worker, status, number - first)
                    return
                if status == FINE:
                    scalars[LOSS_SUM] += scalars[LOSS]
                    scalars[NORM_SUM] += scalars[NORM]
            for r in range(rounds):
                if parallel:
                    status = open_meeting(team, job, worker, status, meeting)
                if status == FINE:
                    share = r * (workers + 1) + worker
                    begin, end = round_shares[share], round_shares[share + 1]
                    change_weights(round_steps, round_tiles, begin, end, 0, 1)
                if parallel:
                    meeting += 1
                    join_meeting(team, worker, workers, meeting)
                if status != FINE:
                    end_run(job, worker, status, number - first)
                    return
        end_run(job, worker, FINE, last - first)

    return run_batches
