"""The places of the numbers in the vectors that kernels are launched with.

A job is a vector of int64 in device memory. The host writes it before a run; the kernels keep count
in it, so that a launch needs no argument that changes.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Job", "Program", "Rounds", "Tiles"]


class Job(IntEnum):
    """What a run of batches needs, and how far it is."""

    STATUS = 0  # a Status
    DONE = 1  # batches completed
    NUMBER = 2  # of the batch within the epoch
    SEGMENT = 3  # of the segment within the batch
    BATCH_ROWS = 4
    SEGMENT_ROWS = 5
    SEGMENTS = 6  # of a full batch
    PROGRAM = 7  # addresses of the tables, and how many rows they have
    STEPS = 8
    TILES = 9
    TILE_COUNT = 10
    SHARES = 11  # that the rows of a segment are cut into for the gradients
    BATCH = 12  # addresses of the plan's vectors
    SCALARS = 13
    LEARNING_RATES = 14
    RATE_STEP = 15  # 0: one learning rate for all batches; 1: one for each
    CLIP_NORM = 16  # address of one float64
    REDUCE_LOSS = 17  # addresses of the arguments of what runs once, or 0
    BEGIN_STEP = 18
    REDUCE_TILES = 19
    STRIDE = 20  # numbers between rows that stay in shared memory
    STAGING = 21  # where the memory of the products begins, in numbers
    IMAGE = 22  # address and numbers of the memory that a launch may have in shared memory
    IMAGE_COUNT = 23
    HELD = 24  # how many of its first numbers are parameters
    TABLES = 25  # where tables of addresses begin in it, in numbers
    WORK = 26  # numbers of shared memory before it
    MEETING = 27  # counts the meetings of a grid's blocks
    ROUNDS = 28  # address of the table of what follows the updates
    CONSTRAINT_ROWS = 29  # how many of its rows are of the constraints, which come first
    AVERAGE_ROWS = 30  # and how many of the average
    COUNT = 31


class Program(IntEnum):
    """A row of the table of the propagation pass."""

    KERNEL = 0  # which of the entry's kernels
    ARGUMENTS = 1  # address
    SOURCE = 2  # where rows that stay in shared memory are, in numbers
    TARGET = 3  # and where the step leaves its own
    SHARES = 4  # that the panels of the step's result are cut into
    COUNT = 5


class Tiles(IntEnum):
    """A row of the table of the weight pass."""

    IS_BIAS = 0
    GRADIENT = 1  # addresses of arguments; 0 where there is no such step
    UPDATE = 2
    TRANSPOSE = 3
    FIRST = 4
    LAST = 5
    COUNT = 6


class Rounds(IntEnum):
    """A row of the table of the rounds after the updates."""

    ARGUMENTS = 0  # address
    FIRST = 1
    LAST = 2
    SHARE = 3  # of the tile
    SHARES = 4
    COUNT = 5
