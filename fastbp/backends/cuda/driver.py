"""What walks a plan's tables on the device: the propagation pass, and the kernels launched.

A batch is: for every segment, the propagation pass over tiles of rows, and the gradients, of which
the rows of the segment may be cut into shares; then the change of the weights, tile by tile; then
one block that adds up the batch and turns to the next one. Every phase is a function of a block's
number among some blocks, so that the same code serves launches of its own, one launch a batch's
phase, and a single launch that trains many batches.

All state is in device memory: a launch has the same arguments for every batch, and a recorded
sequence of launches can be replayed.
"""

from __future__ import annotations

from fastbp.backends.contract import Batch, Status
from fastbp.backends.cuda import phases as of_weights
from fastbp.backends.cuda.job import Job, Program
from fastbp.backends.cuda.language import (
    address_of,
    as_pointer,
    barrier,
    block,
    blocks,
    grid_barrier,
    offset,
    quotient,
    remainder,
    shared_memory,
    thread,
)
from fastbp.backends.cuda.tuning import THREADS

__all__ = ["PHASES", "launched", "resident", "resident_in_shared"]

ROWS, FINE = int(Batch.ROWS), int(Status.DONE)
IMAGE, IMAGE_COUNT = int(Job.IMAGE), int(Job.IMAGE_COUNT)
TABLES, WORK = int(Job.TABLES), int(Job.WORK)
COUNTERS = int(Job.BATCH_ROWS)  # how many of a job's numbers change
STATUS, BATCH, PROGRAM, STEPS = int(Job.STATUS), int(Job.BATCH), int(Job.PROGRAM), int(Job.STEPS)
STRIDE, STAGING = int(Job.STRIDE), int(Job.STAGING)
KERNEL, ARGUMENTS, SOURCE = int(Program.KERNEL), int(Program.ARGUMENTS), int(Program.SOURCE)
TARGET, SHARES, ROW = int(Program.TARGET), int(Program.SHARES), int(Program.COUNT)


def dispatch(kernels):
    """Make a function that calls the kernel with a number, of some kernels."""
    last, number = kernels[-1], len(kernels) - 1
    if number == 0:

        def call_only(code, arguments, first, last_row, part, place):
            last(arguments, first, last_row, part, place)

        return call_only
    before = dispatch(kernels[:-1])

    def call(code, arguments, first, last_row, part, place):
        if code == number:
            last(arguments, first, last_row, part, place)
        else:
            before(code, arguments, first, last_row, part, place)

    return call


def propagate(kinds, kernels, rows):
    """The steps begin to end of the propagation pass, on tiles of so many rows."""
    _, integer, _ = kinds
    call = dispatch(kernels)

    def propagate(job, begin, end, number, count):
        batch = as_pointer(job[BATCH], integer)
        program = as_pointer(job[PROGRAM], integer)
        shares = program[begin * ROW + SHARES]
        units = quotient(batch[ROWS] + rows - 1, rows) * shares
        unit = number
        while unit < units:
            first = quotient(unit, shares) * rows
            last = min(first + rows, batch[ROWS])
            for s in range(begin, end):
                step = offset(program, s * ROW)
                arguments = as_pointer(step[ARGUMENTS], integer)
                place = (step[SOURCE], step[TARGET], job[STRIDE], job[STAGING])
                call(step[KERNEL], arguments, first, last, (remainder(unit, shares), shares), place)
            unit += count

    return propagate


PHASES = {"propagate": propagate}
PHASES |= {name: getattr(of_weights, name) for name in of_weights.__all__}


def launched(kinds, phase):
    """The kernel of one phase: every block does its share, unless the run has ended."""
    _, integer, _ = kinds

    def entry(job_address, begin, end):
        job = as_pointer(job_address, integer)
        if job[STATUS] == FINE:
            phase(job, begin, end, block(), blocks())

    return entry


def resident(kinds, phases, is_single):
    """The kernel that trains batches `begin` to `end` in one launch, a barrier after each phase."""
    _, integer, _ = kinds
    run_phase = in_sequence(phases, is_single)

    def entry(job_address, begin, end):
        job = as_pointer(job_address, integer)
        for _ in range(begin, end):
            if job[STATUS] == FINE:
                run_phase(job)

    return entry


def resident_in_shared(kinds, phases):
    """The same for one block, with all memory of the engine in shared memory during the launch.

    Tables hold addresses: those that lead into the engine's memory are moved with it. What stays
    where it is are the data, and the code has to reach both (`Entry.in_shared`).
    """
    _, integer, _ = kinds
    run_phase = in_sequence(phases, True)

    def entry(job_address, begin, end):
        home_job = as_pointer(job_address, integer)
        base, count = home_job[IMAGE], home_job[IMAGE_COUNT]
        tables = home_job[TABLES]
        home = as_pointer(base, integer)
        image = offset(shared_memory(integer), home_job[WORK])
        moved = address_of(image) - base
        for i in range(thread(), count, THREADS):
            number = home[i]
            if i >= tables and number >= base and number < base + 8 * count:
                number += moved
            image[i] = number
        barrier()
        job = as_pointer(job_address + moved, integer)
        for _ in range(begin, end):
            if job[STATUS] == FINE:
                run_phase(job)
        for i in range(thread(), tables, THREADS):
            home[i] = image[i]
        if thread() == 0:
            for i in range(COUNTERS):
                home_job[i] = job[i]

    return entry


def in_sequence(phases, is_single):
    """Make a function that runs phases one after the other, for all blocks of a grid."""
    last = phases[-1]

    def wait():
        if is_single:
            barrier()
        else:
            grid_barrier()

    if len(phases) == 1:

        def run_one(job):
            last(job, 0, job[STEPS], block(), blocks())
            wait()

        return run_one
    before = in_sequence(phases[:-1], is_single)

    def run(job):
        before(job)
        last(job, 0, job[STEPS], block(), blocks())
        wait()

    return run
