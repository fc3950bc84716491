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
from fastbp.backends.cuda import rounds
from fastbp.backends.cuda.intrinsics import in_turn
from fastbp.backends.cuda.job import Job, Program
from fastbp.backends.cuda.language import (
    address_of,
    as_pointer,
    barrier,
    block,
    blocks,
    grid_barrier,
    load_vectors,
    offset,
    quotient,
    registers,
    remainder,
    shared_memory,
    store_vectors,
    thread,
)
from fastbp.backends.cuda.tuning import COPIED, THREADS

__all__ = [
    "PHASES",
    "launched",
    "resident_with_everything",
    "resident_with_nothing",
    "resident_with_parameters",
]

ROWS, FINE = int(Batch.ROWS), int(Status.DONE)
IMAGE, IMAGE_COUNT, HELD = int(Job.IMAGE), int(Job.IMAGE_COUNT), int(Job.HELD)
TABLES, WORK, MEETING = int(Job.TABLES), int(Job.WORK), int(Job.MEETING)
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
PHASES |= {name: getattr(rounds, name) for name in rounds.PHASES.values()}


def launched(kinds, phase):
    """The kernel of one phase: every block does its share, unless the run has ended."""
    _, integer, _ = kinds

    def entry(job_address, begin, end):
        job = as_pointer(job_address, integer)
        if job[STATUS] == FINE:
            phase(job, begin, end, block(), blocks())

    return entry


def resident_with_nothing(kinds, phases, is_single):
    """The kernel that trains batches `begin` to `end` in one launch, a barrier after each phase."""
    _, integer, _ = kinds
    run_phases = in_sequence(phases, is_single)

    def entry(job_address, begin, end):
        job = as_pointer(job_address, integer)
        for _ in range(begin, end):
            if job[STATUS] == FINE:
                run_phases(job, job)

    return entry


def resident_with_parameters(kinds, phases, is_single):
    """The same with a copy of the parameters in each block's shared memory, renewed every batch.

    The propagation pass, which is the first phase, walks copies of the tables that lead there. The
    phases after it change the parameters where they are at home.
    """
    _, integer, _ = kinds
    propagate = in_sequence(phases[:1], is_single)
    change_parameters = in_sequence(phases[1:], is_single)
    copy = copy_vectors(integer)

    def entry(job_address, begin, end):
        home_job = as_pointer(job_address, integer)
        base, held, first = home_job[IMAGE], home_job[HELD], home_job[TABLES]
        tables, count = base + 8 * first, home_job[IMAGE_COUNT] - first
        home, home_tables = as_pointer(base, integer), as_pointer(tables, integer)
        image = offset(shared_memory(integer), home_job[WORK])
        image_tables = offset(image, held)
        parameters_move = (base, held, address_of(image) - base)
        tables_move = (tables, count, address_of(image_tables) - tables)
        for i in range(thread(), count, THREADS):
            image_tables[i] = moved(moved(home_tables[i], parameters_move), tables_move)
        barrier()
        job = as_pointer(moved(job_address, tables_move), integer)
        for _ in range(begin, end):
            if home_job[STATUS] == FINE:
                copy(image, home, held)
                barrier()
                propagate(job, home_job)
                change_parameters(home_job, home_job)

    return entry


def resident_with_everything(kinds, phases, is_single):
    """The same for one block, with all memory of the engine in shared memory during the launch.

    What stays where it is are the data.
    """
    _, integer, _ = kinds
    run_phases = in_sequence(phases, is_single)

    def entry(job_address, begin, end):
        home_job = as_pointer(job_address, integer)
        base, count, tables = home_job[IMAGE], home_job[IMAGE_COUNT], home_job[TABLES]
        home = as_pointer(base, integer)
        image = offset(shared_memory(integer), home_job[WORK])
        move = (base, count, address_of(image) - base)
        for i in range(thread(), count, THREADS):
            image[i] = home[i] if i < tables else moved(home[i], move)
        barrier()
        job = as_pointer(moved(job_address, move), integer)
        for _ in range(begin, end):
            if job[STATUS] == FINE:
                run_phases(job, job)
        for i in range(thread(), tables, THREADS):
            home[i] = image[i]
        if thread() == 0:
            for i in range(COUNTERS):
                home_job[i] = job[i]

    return entry


def moved(number, move):
    """A number of a table: an address in memory that is moved moves with it.

    A move is an address, how many numbers of 8 bytes lie there, and how far they move.
    """
    begin, count, distance = move
    if number >= begin and number < begin + 8 * count:
        number += distance
    return number


def copy_vectors(integer):
    """Make ``copy(target, source, count)``, of an even number of integers by the whole block.

    Several vectors of a thread are on their way at a time.
    """
    step, count_held = 2 * THREADS, 2 * COPIED

    def load_piece(n):
        index, ahead = 2 * n, n * step

        def load(values, source, place):
            at, count = place
            if at + ahead < count:
                load_vectors(values, index, source, at + ahead, 0, 1)

        return load

    def store_piece(n):
        index, ahead = 2 * n, n * step

        def store(values, target, place):
            at, count = place
            if at + ahead < count:
                store_vectors(target, at + ahead, 0, 0, values, index, 1, 1)

        return store

    load, store = in_turn(load_piece, COPIED), in_turn(store_piece, COPIED)

    def copy(target, source, count):
        values = registers(count_held, integer)
        for at in range(2 * thread(), count, COPIED * step):
            load(values, source, (at, count))
            store(values, target, (at, count))

    return copy


def in_sequence(phases, is_single):
    """Make ``run(job, home)``, phases one after the other for all blocks of a grid.

    `home` is the job in global memory, of which a block's own `job` may be a copy.
    """
    last = phases[-1]

    def wait(home):
        if is_single:
            barrier()
        else:
            grid_barrier(offset(home, MEETING))

    if len(phases) == 1:

        def run_one(job, home):
            last(job, 0, job[STEPS], block(), blocks())
            wait(home)

        return run_one
    before = in_sequence(phases[:-1], is_single)

    def run(job, home):
        before(job, home)
        last(job, 0, job[STEPS], block(), blocks())
        wait(home)

    return run
