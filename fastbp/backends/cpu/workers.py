"""The worker threads of this process: made when first needed, and never in Python's way.

They are threads of the operating system that run compiled code alone, so they need no GIL. Between
jobs they look for the next one for some tens of microseconds and then wait without using a core.
One call at a time has them; another that comes meanwhile runs serially, which gives the same bits.
A forked child has none of its parent's threads and makes its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.cpu.job import Job, Team
from fastbp.backends.cpu.machine_code import bind
from fastbp.backends.cpu.processor import MOST_THREADS
from fastbp.turns import Line, tell_of_forks

__all__ = ["POOL", "Pool", "entry"]

OBJECT_BYTES = 128  # more than a mutex or a condition takes on any system
MASK_BITS = 1024  # of a cpu_set_t
KIND = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def entry(name: str) -> Any:
    """A compiled function that Python calls without the GIL: (address, integer, integer)."""
    return KIND(bind(name))


def lasting_memory(elements: int) -> NDArray[np.int64]:
    """Zeros on a line's boundary that are never given back: threads may outlive the interpreter."""
    raw = np.zeros(elements + 8, dtype=np.int64)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
    start = (-raw.ctypes.data % 64) // 8
    return raw[start : start + elements]


def mask_of(cores: set[int]) -> NDArray[np.int64]:
    """The bits of some cores, as the system has them."""
    mask = lasting_memory(MASK_BITS // 64)
    for core in cores:
        mask.view(np.uint64)[core // 64] |= np.uint64(1 << core % 64)
    return mask


LIBRARY = {
    Team.LOCK: "pthread_mutex_lock",
    Team.UNLOCK: "pthread_mutex_unlock",
    Team.WAIT: "pthread_cond_wait",
    Team.BROADCAST: "pthread_cond_broadcast",
    Team.YIELD: "sched_yield",
    Team.NAP: "usleep",
}


class Threads:
    """POSIX threads, and what is needed to wait for one another.

    Raises
    ------
    OSError, AttributeError, TypeError
        Where the system has none.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.create = library.pthread_create
        self.create.argtypes = [ctypes.c_void_p] * 4
        self.team = lasting_memory(Team.ARRIVED + Team.LINE * MOST_THREADS)
        for place, name in LIBRARY.items():
            self.team[place] = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        for place, name in (
            (Team.MUTEX, "pthread_mutex_init"),
            (Team.CONDITION, "pthread_cond_init"),
        ):
            self.team[place] = lasting_memory(OBJECT_BYTES // 8).ctypes.data
            initialise = getattr(library, name)
            initialise.argtypes = [ctypes.c_void_p] * 2
            if initialise(int(self.team[place]), None):
                raise OSError(f"{name} failed")
        self.team[Team.CALL] = bind("call_in_mode")
        self.lead = entry("lead")
        self.work = bind("work")
        self.count = 1  # workers, the calling thread among them
        self.is_whole = True  # no thread was made that is not counted

    def grow(self, workers: int) -> bool:
        """Make threads until there are so many workers; whether that was possible."""
        while self.count < workers:
            place = lasting_memory(8)
            place[:3] = self.team.ctypes.data, self.count, self.team[Team.POSTED]
            place[3:7] = self.where_to_begin(self.count)
            handle = lasting_memory(8)
            # Python's main thread handles signals; a worker inherits the mask of its maker.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            try:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                self.is_whole = False
                failed = self.create(handle.ctypes.data, None, self.work, place.ctypes.data)
                self.count += not failed
                self.is_whole = True
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if failed:
                return False
        return True

    def where_to_begin(self, worker: int) -> tuple[int, int, int, int]:
        """What `work` says of its first core, for a worker of this number; zeros for anywhere."""
        library = ctypes.CDLL(None)
        if not (hasattr(os, "sched_getaffinity") and hasattr(library, "sched_getcpu")):
            return 0, 0, 0, 0
        cores, here = os.sched_getaffinity(0), library.sched_getcpu()
        others = sorted(cores - {here})
        if not others or max(cores) >= MASK_BITS:
            return 0, 0, 0, 0
        own = mask_of({others[(worker - 1) % len(others)]})
        address = ctypes.cast(library.sched_setaffinity, ctypes.c_void_p).value or 0
        return address, MASK_BITS // 8, own.ctypes.data, mask_of(cores).ctypes.data


class Pool:
    """The workers, lent to one call at a time."""

    def __init__(self) -> None:
        self.line = Line()
        self.threads: Threads | None = None
        self.is_usable = True  # until the system refuses
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """The threads stayed in the parent."""
        self.threads, self.is_usable = None, True

    def run(self, job: NDArray[np.int64], workers: int) -> bool:
        """Run a job on so many workers, if they are free and the system allows it.

        Parameters
        ----------
        job : array of int64
            With the places of `Job`; the team's place is filled in here.
        workers : int

        Returns
        -------
        bool
            Whether it was run; if not, nothing was done.
        """
        call = object()
        try:
            if workers > MOST_THREADS or not (self.is_usable and self.line.is_first(call)):
                return False
            threads = self.ready(workers)
            if threads is None:
                return False
            team = threads.team.ctypes.data
            job[Job.TEAM] = team
            threads.lead(team, job.ctypes.data, workers)
            return True
        finally:
            self.line.calls.pop(call, None)

    def ready(self, workers: int) -> Threads | None:
        """The threads, or None where the system refuses them."""
        try:
            if self.threads is None or not self.threads.is_whole:
                self.threads = Threads()
            if self.threads.grow(workers):
                return self.threads
        except (OSError, AttributeError, TypeError):
            pass
        self.is_usable = False
        return None


POOL = Pool()
