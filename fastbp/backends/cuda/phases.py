"""The phases of a step after the propagation pass: gradients, change of the weights, bookkeeping.

A phase is ``phase(job, begin, end, number, count)``: what block `number` of `count` does. Phases of
one block leave the others idle.
"""

from __future__ import annotations

from fastbp.backends.contract import Batch, Scalar, Status
from fastbp.backends.cuda.job import Job, Tiles
from fastbp.backends.cuda.language import as_pointer, barrier, offset, quotient, remainder, thread

__all__ = [
    "add_up",
    "advance",
    "change",
    "clip",
    "finish",
    "gradients",
    "next_segment",
    "sum_losses",
    "update",
]

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
BEGINS, ENDS = int(Batch.BEGINS), int(Batch.ENDS)
STEP, LEARNING_RATE, CLIP_SCALE = (
    int(Scalar.STEP),
    int(Scalar.LEARNING_RATE),
    int(Scalar.CLIP_SCALE),
)
LOSS, NORM, LOSS_LIMIT = int(Scalar.LOSS), int(Scalar.NORM), int(Scalar.LOSS_LIMIT)
AVERAGE_DECAY, AVERAGE_WEIGHT = int(Scalar.AVERAGE_DECAY), int(Scalar.AVERAGE_WEIGHT)
AVERAGE_RATE = int(Scalar.AVERAGE_RATE)
LOSS_SUM, NORM_SUM = int(Scalar.LOSS_SUM), int(Scalar.NORM_SUM)
LOSS_NOT_FINITE = int(Status.LOSS_NOT_FINITE)
GRADIENT_NOT_FINITE = int(Status.GRADIENT_NOT_FINITE)
STATUS, DONE, NUMBER, SEGMENT = int(Job.STATUS), int(Job.DONE), int(Job.NUMBER), int(Job.SEGMENT)
BATCH_ROWS, SEGMENT_ROWS = int(Job.BATCH_ROWS), int(Job.SEGMENT_ROWS)
SEGMENTS = int(Job.SEGMENTS)
TILES = int(Job.TILES)
TILE_COUNT, SHARES = int(Job.TILE_COUNT), int(Job.SHARES)
BATCH, SCALARS, RATES = int(Job.BATCH), int(Job.SCALARS), int(Job.LEARNING_RATES)
RATE_STEP, CLIP_NORM = int(Job.RATE_STEP), int(Job.CLIP_NORM)
REDUCE_LOSS, BEGIN_STEP = int(Job.REDUCE_LOSS), int(Job.BEGIN_STEP)
REDUCE_TILES = int(Job.REDUCE_TILES)
TILES_ROW = int(Tiles.COUNT)
IS_BIAS, GRADIENT, UPDATE = int(Tiles.IS_BIAS), int(Tiles.GRADIENT), int(Tiles.UPDATE)
TRANSPOSE, FIRST_ROW, LAST_ROW = int(Tiles.TRANSPOSE), int(Tiles.FIRST), int(Tiles.LAST)


def is_finite(value):
    return value - value == 0.0


def sum_losses(kinds, kernels):
    """The sums of the losses alone. One block."""
    _, integer, _ = kinds
    (reduce_loss,) = kernels

    def sum_losses(job, begin, end, number, count):
        if number == 0:
            reduce_loss(as_pointer(job[REDUCE_LOSS], integer), 0, 0, (0, 1), (0, 0, 0, 0))

    return sum_losses


def nothing_to_begin(job):
    """Without an optimizer."""


def begin_of_step(kinds, begin_step):
    """Make a function that counts the step and works out its coefficients, once a batch."""
    _, integer, wide = kinds

    def begin(job):
        if job[SEGMENT] == 0:
            if thread() == 0:
                scalars = as_pointer(job[SCALARS], wide)
                rates = as_pointer(job[RATES], wide)
                scalars[STEP] += wide(1.0)
                scalars[LEARNING_RATE] = rates[job[NUMBER] * job[RATE_STEP]]
                scalars[CLIP_SCALE] = wide(1.0)
                weight = scalars[AVERAGE_DECAY] * scalars[AVERAGE_WEIGHT] + wide(1.0)
                scalars[AVERAGE_WEIGHT], scalars[AVERAGE_RATE] = weight, wide(1.0) / weight
            barrier()
            begin_step(as_pointer(job[BEGIN_STEP], integer), 0, 0, (0, 1), (0, 0, 0, 0))

    return begin


def gradients(kinds, kernels):
    """The sums of the losses and of the gradients over a segment; one block begins the step."""
    _, integer, _ = kinds
    reduce_loss, weight_gradient, bias_gradient, *rest = kernels
    begin = begin_of_step(kinds, rest[0]) if rest else nothing_to_begin

    def gradients(job, begin_at, end_at, number, count):
        shares = job[SHARES]
        unit = number
        while unit < job[TILE_COUNT] * shares + 1:
            if unit == 0:
                reduce_loss(as_pointer(job[REDUCE_LOSS], integer), 0, 0, (0, 1), (0, 0, 0, 0))
                begin(job)
            else:
                tile = as_pointer(job[TILES], integer)
                tile = offset(tile, quotient(unit - 1, shares) * TILES_ROW)
                part = (remainder(unit - 1, shares), shares)
                arguments = as_pointer(tile[GRADIENT], integer)
                if tile[IS_BIAS] != 0:
                    bias_gradient(arguments, tile[FIRST_ROW], tile[LAST_ROW], part, (0, 0, 0, 0))
                else:
                    weight_gradient(arguments, tile[FIRST_ROW], tile[LAST_ROW], part, (0, 0, 0, 0))
            unit += count

    return gradients


def for_each_tile(kinds, work):
    """Make a phase that does something with every tile."""
    _, integer, _ = kinds

    def phase(job, begin, end, number, count):
        unit = number
        while unit < job[TILE_COUNT]:
            tile = offset(as_pointer(job[TILES], integer), unit * TILES_ROW)
            work(tile, tile[FIRST_ROW], tile[LAST_ROW], (0, job[SHARES]))
            unit += count

    return phase


def if_finite(kinds, phase):
    """Make a phase that does nothing when the loss or the gradient's norm is not finite."""
    _, _, wide = kinds

    def guarded(job, begin, end, number, count):
        scalars = as_pointer(job[SCALARS], wide)
        if is_finite(scalars[LOSS]) and is_finite(scalars[CLIP_SCALE]):
            phase(job, begin, end, number, count)

    return guarded


def finish(kinds, kernels):
    """The gradients whole: shares added up, scaled, penalties and norms."""
    _, integer, _ = kinds
    finish_weight, finish_bias = kernels

    def finish_tile(tile, first, last, part):
        arguments = as_pointer(tile[GRADIENT], integer)
        if tile[IS_BIAS] != 0:
            finish_bias(arguments, first, last, part, (0, 0, 0, 0))
        else:
            finish_weight(arguments, first, last, part, (0, 0, 0, 0))

    return for_each_tile(kinds, finish_tile)


def update(kinds, kernels):
    """The parameters changed, and the transposed copies of weights."""
    _, integer, _ = kinds
    update_parameters, transpose_weight = kernels

    def update_tile(tile, first, last, part):
        arguments = as_pointer(tile[UPDATE], integer)
        update_parameters(arguments, first, last, part, (0, 0, 0, 0))
        if tile[TRANSPOSE] != 0:
            arguments = as_pointer(tile[TRANSPOSE], integer)
            transpose_weight(arguments, first, last, part, (0, 0, 0, 0))

    return if_finite(kinds, for_each_tile(kinds, update_tile))


def change(kinds, kernels):
    """Both in one go, where no update waits for the norm of all gradients."""
    _, integer, _ = kinds
    finish_weight, finish_bias, update_parameters, transpose_weight = kernels

    def change_tile(tile, first, last, part):
        arguments = as_pointer(tile[GRADIENT], integer)
        if tile[IS_BIAS] != 0:
            finish_bias(arguments, first, last, part, (0, 0, 0, 0))
        else:
            finish_weight(arguments, first, last, part, (0, 0, 0, 0))
        arguments = as_pointer(tile[UPDATE], integer)
        update_parameters(arguments, first, last, part, (0, 0, 0, 0))
        if tile[TRANSPOSE] != 0:
            arguments = as_pointer(tile[TRANSPOSE], integer)
            transpose_weight(arguments, first, last, part, (0, 0, 0, 0))

    return if_finite(kinds, for_each_tile(kinds, change_tile))


def clip(kinds, kernels):
    """The norm of the gradient, and by what the gradient is scaled. One block."""
    _, integer, wide = kinds
    (reduce_tiles,) = kernels

    def clip(job, begin, end, number, count):
        if number == 0:
            reduce_tiles(as_pointer(job[REDUCE_TILES], integer), 0, 0, (0, 1), (0, 0, 0, 0))
            if thread() == 0:
                scalars = as_pointer(job[SCALARS], wide)
                bound = as_pointer(job[CLIP_NORM], wide)[0]
                if not is_finite(scalars[NORM]):
                    scalars[CLIP_SCALE] = scalars[NORM] - scalars[NORM]  # a NaN: no update
                elif scalars[NORM] > bound:
                    scalars[CLIP_SCALE] = bound / scalars[NORM]
            barrier()

    return clip


def place_segment(integer):
    """Make a function that writes down where the job's segment lies. One thread."""

    def write(job):
        batch = as_pointer(job[BATCH], integer)
        batch_begin = job[NUMBER] * job[BATCH_ROWS]
        begin = batch_begin + job[SEGMENT] * job[SEGMENT_ROWS]
        end = min(batch_begin + job[BATCH_ROWS], batch[DATA_ROWS])
        batch[POSITION] = begin
        batch[ROWS] = max(min(end - begin, job[SEGMENT_ROWS]), 0)
        batch[BEGINS] = 1 if job[SEGMENT] == 0 else 0
        batch[ENDS] = 1 if job[SEGMENT] + 1 == job[SEGMENTS] else 0

    return write


def next_segment(kinds, kernels):
    """On to the batch's next segment. One block."""
    _, integer, _ = kinds
    write = place_segment(integer)

    def next_segment(job, begin, end, number, count):
        if number == 0 and thread() == 0:
            job[SEGMENT] += 1
            write(job)

    return next_segment


def advance(kinds, kernels):
    """On to the next batch, where nothing is updated. One block."""
    _, integer, _ = kinds
    write = place_segment(integer)

    def advance(job, begin, end, number, count):
        if number == 0 and thread() == 0:
            turn_batch(job)
            write(job)

    return advance


def turn_batch(job):
    """Count a batch."""
    job[DONE] += 1
    job[NUMBER] += 1
    job[SEGMENT] = 0


def add_up(kinds, kernels):
    """Add up the batch, see whether it is finite, and go on to the next one. One block.

    Where the gradient was clipped its norm is known, and there are no kernels.
    """
    _, integer, wide = kinds
    write = place_segment(integer)

    def add_up(job, begin, end, number, count):
        if number == 0 and thread() == 0:
            scalars = as_pointer(job[SCALARS], wide)
            if not is_finite(scalars[LOSS]):
                job[STATUS] = LOSS_NOT_FINITE
                scalars[STEP] -= wide(1.0)  # no weight was changed
            elif not is_finite(scalars[NORM]):
                job[STATUS] = GRADIENT_NOT_FINITE
            elif scalars[LOSS] > scalars[LOSS_LIMIT]:
                job[STATUS] = LOSS_NOT_FINITE
            else:
                scalars[LOSS_SUM] += scalars[LOSS]
                scalars[NORM_SUM] += scalars[NORM]
                turn_batch(job)
                write(job)

    if not kernels:
        return add_up
    (reduce_tiles,) = kernels

    def reduce_and_add_up(job, begin, end, number, count):
        if number == 0:
            reduce_tiles(as_pointer(job[REDUCE_TILES], integer), 0, 0, (0, 1), (0, 0, 0, 0))
            add_up(job, begin, end, number, count)

    return reduce_and_add_up
