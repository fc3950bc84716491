"""The places of the numbers in the vectors that compiled functions are called with.

A job is a vector of int64: addresses and sizes, set before a call. The first three places are the
same for all jobs. The team's vector is what worker threads share; what is written by different
threads lies on different cache lines (8 numbers).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Job", "Mode", "Prediction", "Team"]


class Mode(IntEnum):
    """How floating-point arithmetic treats subnormal numbers while a job runs."""

    GRADUAL = 0  # as IEEE 754 says
    FLUSH = 1  # as zeros: moments that fade away would cost an assist of the processor each


class Job(IntEnum):
    """A call of the driver."""

    FUNCTION = 0  # address of the driver
    MODE = 1
    RESULT = 2  # a Status
    DONE = 3  # batches completed
    PROPAGATION = 4  # addresses of the tables, and how many rows they have
    STEPS = 5
    ONCE = 6
    WEIGHT_STEPS = 7
    TILES = 8
    SHARES = 9
    BATCH = 10
    SCALARS = 11
    LEARNING_RATES = 12
    CLIP_NORM = 13  # address of one float64
    BATCH_ROWS = 14
    SEGMENT_ROWS = 15
    ROW_BLOCK = 16
    FIRST = 17  # batches first <= b < last of the epoch
    LAST = 18
    TEAM = 19  # address of the team's vector, for the parallel driver
    ROW_UNIT = 20  # shares of the rows are multiples of it
    ROUNDS = 21  # how many follow the updates; addresses of their tables
    ROUND_STEPS = 22
    ROUND_TILES = 23
    ROUND_SHARES = 24
    COUNT = 25


class Prediction(IntEnum):
    """A call that predicts a few rows."""

    FUNCTION = 0
    MODE = 1
    RESULT = 2
    ARRAY_DATA = 3  # bytes from an array object to the address of its data
    PARAMETERS = 4  # addresses of the model's and of the engine's
    LOADED = 5
    PARAMETER_COUNT = 6
    STAGED = 7  # address of the scaled inputs
    SCALING = 8  # address of float64 (4, SCALING_COLUMNS), or 0
    SCALING_COLUMNS = 9
    FEATURES = 10
    OUTPUTS = 11
    PROPAGATION = 12
    STEPS = 13
    INPUT_ENTRY = 14  # addresses of the arguments that name the data's inputs and outputs
    OUTPUT_ENTRY = 15
    BATCH = 16
    COUNT = 17


class Team(IntEnum):
    """What the workers of the pool share."""

    POSTED = 0  # how many jobs were posted
    JOB = 8  # of the last one: its address, its number of workers
    WORKERS = 9
    SLEEPERS = 16  # workers that wait for the condition
    CALL = 24  # address of `call_in_mode`
    MUTEX = 25  # addresses of the mutex and the condition, and of what works on them
    CONDITION = 26
    LOCK = 27
    UNLOCK = 28
    WAIT = 29
    BROADCAST = 30
    YIELD = 31  # addresses of sched_yield and usleep
    NAP = 32
    RELEASED = 40  # barriers that worker 0 has opened
    ARRIVED = 48  # barriers that worker w has reached: at ARRIVED + LINE * w
    LINE = 8
