"""The rounds after the updates: what they do, as phases, and the table that they walk.

They follow `add_up`, which has seen whether the batch is fine: if it was not, nothing of them runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastbp.backends.contract import Status
from fastbp.backends.cuda.job import Job, Rounds
from fastbp.backends.cuda.language import as_pointer, offset
from fastbp.backends.cuda.tuning import CONSTRAINED
from fastbp.plan import Plan

__all__ = ["PHASES", "average", "constrain", "round_rows", "rows_of_rounds"]

FINE, STATUS, ROUNDS = int(Status.DONE), int(Job.STATUS), int(Job.ROUNDS)
CONSTRAINT_ROWS, AVERAGE_ROWS = int(Job.CONSTRAINT_ROWS), int(Job.AVERAGE_ROWS)
ARGUMENTS, FIRST, LAST = int(Rounds.ARGUMENTS), int(Rounds.FIRST), int(Rounds.LAST)
SHARE, SHARES, ROW = int(Rounds.SHARE), int(Rounds.SHARES), int(Rounds.COUNT)


def for_each_row(kinds, kernel):
    """Make a function that calls a kernel for some rows of the table, if the batch was fine."""
    _, integer, _ = kinds

    def run(job, begin, end, number, count):
        if job[STATUS] == FINE:
            unit = begin + number
            while unit < end:
                row = offset(as_pointer(job[ROUNDS], integer), unit * ROW)
                part = (row[SHARE], row[SHARES])
                arguments = as_pointer(row[ARGUMENTS], integer)
                kernel(arguments, row[FIRST], row[LAST], part, (0, 0, 0, 0))
                unit += count

    return run


def constrain(kinds, kernels):
    """Weights held to a largest norm of each unit's."""
    (constrain_weight,) = kernels
    run = for_each_row(kinds, constrain_weight)

    def constrain(job, begin, end, number, count):
        run(job, 0, job[CONSTRAINT_ROWS], number, count)

    return constrain


def average(kinds, kernels):
    """The moving average of the parameters."""
    (average_parameters,) = kernels
    run = for_each_row(kinds, average_parameters)

    def average(job, begin, end, number, count):
        first = job[CONSTRAINT_ROWS]
        run(job, first, first + job[AVERAGE_ROWS], number, count)

    return average


PHASES = {"constrain_weight": "constrain", "average_parameters": "average"}  # of kernels


def rows_of_rounds(plan: Plan) -> dict[str, int]:
    """How many rows of the table each kernel has."""
    counts = dict.fromkeys(PHASES, 0)
    for kernel, *_ in tiles_of_rounds(plan):
        counts[kernel] += 1
    return counts


def round_rows(plan: Plan, starts: Mapping[int, int]) -> list[tuple[int, ...]]:
    """The table, given where the arguments of each step are, by its `id`."""
    return [(starts[step], *place) for _, step, *place in tiles_of_rounds(plan)]


def tiles_of_rounds(plan: Plan) -> list[tuple[str, int, int, int, int, int]]:
    """Kernel, `id` of its step, first and last row, share and shares."""
    found = []
    for each in plan.rounds:
        for tile in each.tiles:
            (step,) = each.steps[tile.gradient_begin : tile.gradient_end]
            shares = shares_of(plan) if step.kernel == "constrain_weight" else 1
            found += [
                (step.kernel, id(step), tile.first_row, tile.last_row, share, shares)
                for share in range(shares)
            ]
    return found


def shares_of(plan: Plan) -> int:
    """How many blocks hold the units of a panel to their norm."""
    return max(plan.geometry.panel_lines * plan.line // CONSTRAINED, 1)
