"""What a core pays for lines that another core wrote: ``python -m benchmarks.lab.handover``.

Two threads, each on a core of its own, take turns: one writes some lines, then the other reads
them, in the order of memory; then the same with one thread doing both. Prints the nanoseconds a
line. A step on two threads hands over half of the parameters and half of the activations and
deltas, because each worker updates the parameters and produces the rows of its share and both need
all of them; times the difference of the last two columns, that is time which no second core saves.
"""

from __future__ import annotations

import os
import statistics
import threading
import time

import numpy as np
from numba import njit

from fastbp.text import table

ROUNDS = 15
LINE = 8  # float64 in a line of 64 bytes


@njit(nogil=True)
def write(values, number):
    """Write every line; the same work whoever does it."""
    for i in range(values.size):
        values[i] = number


@njit(nogil=True)
def read(values):
    """Read every line, in eight sums that do not wait for one another."""
    sums = np.zeros(LINE)
    for i in range(0, values.size, LINE):
        for j in range(LINE):
            sums[j] += values[i + j]
    return sums.sum()


def nanoseconds_a_line(kilobytes: int, cores: tuple[int, int]) -> float:
    """Of reading, on the second core, what the first has just written; median of the rounds."""
    values = np.zeros(kilobytes * 128)
    barrier = threading.Barrier(2)
    times = []

    def writer() -> None:
        os.sched_setaffinity(0, {cores[0]})
        for number in range(ROUNDS):
            write(values, float(number))
            barrier.wait()
            barrier.wait()

    def reader() -> None:
        os.sched_setaffinity(0, {cores[1]})
        for number in range(ROUNDS):
            barrier.wait()
            started = time.perf_counter()
            total = read(values)
            times.append((time.perf_counter() - started) * 1e9 / (values.size / LINE))
            assert total == number * values.size
            barrier.wait()

    members = [threading.Thread(target=run) for run in (writer, reader)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    return statistics.median(times)


def main() -> None:
    """A row for each size."""
    write(np.zeros(LINE), 0.0)
    read(np.zeros(LINE))
    first, second = sorted(os.sched_getaffinity(0))[:2]
    rows = []
    for kilobytes in (64, 256, 512, 1024, 4096):
        own = nanoseconds_a_line(kilobytes, (second, second))
        other = nanoseconds_a_line(kilobytes, (first, second))
        rows.append((f"{kilobytes} KiB", f"{own:.1f}", f"{other:.1f}"))
    header = ("written", "by the reading core, ns a line", "by another core, ns a line")
    print("\n".join(table(header, rows)))


if __name__ == "__main__":
    main()
