"""Threads: how many there are, one parallel region at a time, and forked children.

Two hazards are met here. The workqueue layer aborts the process when two Python threads enter
parallel regions together, so regions take turns. And a child that was forked after its parent had
run a parallel region cannot run one itself (GNU OpenMP ends such a child), so it runs serially,
with the same results.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numba

__all__ = ["available_threads", "may_run_parallel", "parallel_region"]


class ParallelState:
    """What this process knows about its parallel regions."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entered = False  # a region has been run, so the threading layer is up
        self.forbidden = False  # this process was forked from one where that was so

    def after_fork_in_child(self) -> None:
        """The lock may have been held by a thread that this process does not have."""
        self.lock = threading.Lock()
        self.forbidden = self.forbidden or self.entered


STATE = ParallelState()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=STATE.after_fork_in_child)


def available_threads() -> int:
    """The most threads that a parallel region can have in this process."""
    return int(numba.config.NUMBA_NUM_THREADS)


def may_run_parallel() -> bool:
    """Whether this process can run parallel regions."""
    return not STATE.forbidden


@contextlib.contextmanager
def parallel_region(threads: int) -> Iterator[None]:
    """Numba's thread count set for one call, and put back."""
    with STATE.lock:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        STATE.entered = True
        try:
            yield
        finally:
            numba.set_num_threads(before)
