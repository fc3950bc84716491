"""Kernels that train many batches in one launch, around phases that look at what they are given."""

import numpy as np
import pytest
from simulator import Machine

from fastbp.backends.contract import Status
from fastbp.backends.cuda import driver, language
from fastbp.backends.cuda.job import Job, Program
from fastbp.backends.cuda.tuning import THREADS

KINDS = np.float64, np.int64, np.float64
# The memory of an engine: so many numbers of parameters, others, then tables.
HELD, OTHERS, WORK = 3 * 2 * THREADS + 34, 32, 64
ARGUMENTS, PROGRAM = HELD + OTHERS, HELD + OTHERS + 6
JOB = PROGRAM + int(Program.COUNT)
COUNT = JOB + int(Job.COUNT)
SEEN = 5, HELD - 1  # of the parameters


def engine_memory(machine):
    """The address of an engine's memory; parameter i is i."""
    base = machine.memory.allocate(8 * COUNT)
    numbers = np.zeros(COUNT, dtype=np.int64)
    numbers[:HELD] = np.arange(HELD)
    numbers[HELD - 2] = base + 8  # an address to look at, but it is a parameter's value
    numbers[ARGUMENTS] = base + 8 * SEEN[0]
    numbers[ARGUMENTS + 3] = base + 8 * SEEN[1]
    numbers[PROGRAM + Program.ARGUMENTS] = base + 8 * ARGUMENTS
    job = numbers[JOB:]
    job[Job.STATUS], job[Job.PROGRAM] = Status.DONE, base + 8 * PROGRAM
    job[Job.IMAGE], job[Job.IMAGE_COUNT], job[Job.HELD] = base, COUNT, HELD
    job[Job.TABLES], job[Job.WORK] = ARGUMENTS, WORK
    machine.memory.write(base, numbers)
    return base


def phases_that_look(seen, base):
    """A propagation pass that notes what it sees of two parameters, and one that adds 1 to them."""

    def arguments_of(job):
        program = language.as_pointer(job[Job.PROGRAM], np.int64)
        return language.as_pointer(program[Program.ARGUMENTS], np.int64)

    def look(job, begin, end, number, count):
        arguments = arguments_of(job)
        for i in range(2):
            found = language.as_pointer(arguments[3 * i], np.int64)
            if language.thread() == 0:
                seen.append((number, i, found[0] - SEEN[i], found.region.is_global))

    def change(job, begin, end, number, count):
        arguments = arguments_of(job)
        for i in range(2):
            if number == 0 and language.thread() == i:
                language.as_pointer(arguments[3 * i], np.int64)[0] += 1
        if number == count - 1 and language.thread() == 0:
            job[Job.DONE] += 1
            if job[Job.DONE] == 3:
                job[Job.STATUS] = Status.LOSS_NOT_FINITE

    return [look, change]


def launch(held, grid, phases_of=phases_that_look, **options):
    """What the phases saw, the engine's memory after it, and where it is."""
    machine = Machine(races=True, uninitialised="raise", order="random", **options)
    base, seen = engine_memory(machine), []
    make = getattr(driver, f"resident_with_{held}")
    kernel = make(KINDS, phases_of(seen, base), grid == 1)
    shared = 8 * (WORK + {"nothing": 0, "parameters": COUNT - OTHERS, "everything": COUNT}[held])
    machine.launch(kernel, grid, THREADS, shared, (base + 8 * JOB, 0, 5), cooperative=grid > 1)
    return seen, machine.memory.read(base, np.int64, COUNT), base


@pytest.mark.parametrize(
    ("held", "grid"),
    [("nothing", 1), ("nothing", 3), ("parameters", 1), ("parameters", 3), ("everything", 1)],
)
def test_what_the_propagation_pass_reads(held, grid):
    """Every block the parameters as the last batch left them, and from where they are held."""
    seen, memory, base = launch(held, grid)
    # The third of five batches ends the run.
    expected = {
        (block, i, batch, held == "nothing")
        for block in range(grid)
        for i in range(2)
        for batch in range(3)
    }
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert [memory[i] - i for i in SEEN] == [3, 3]
    assert memory[HELD - 2] == base + 8
    assert memory[JOB + Job.DONE] == 3
    # Tables at home are as they were.
    assert memory[ARGUMENTS] == base + 8 * SEEN[0]
    assert memory[JOB + Job.PROGRAM] == base + 8 * PROGRAM


def test_all_parameters_are_copied():
    def phases(seen, base):
        def compare(job, begin, end, number, count):
            program = language.as_pointer(job[Job.PROGRAM], np.int64)
            arguments = language.as_pointer(program[Program.ARGUMENTS], np.int64)
            first = language.as_pointer(arguments[0] - 8 * SEEN[0], np.int64)
            for i in range(language.thread(), HELD, THREADS):
                seen.append((i, first[i]))

        return [compare, lambda *arguments: None]

    seen, memory, _ = launch("parameters", 1, phases)
    assert seen
    assert sorted(set(seen)) == list(enumerate(memory[:HELD]))
