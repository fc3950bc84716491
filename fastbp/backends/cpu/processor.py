"""The processor: its cores, and what Numba compiles for; without importing Numba."""

from __future__ import annotations

import functools
import os

__all__ = ["MOST_THREADS", "available_threads", "processor_features", "processor_name"]

MOST_THREADS = 1024


def available_threads() -> int:
    """The most threads that a training can have: NUMBA_NUM_THREADS, or this process's cores."""
    named = os.environ.get("NUMBA_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return min(int(named), MOST_THREADS)
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_THREADS)
    return min(os.cpu_count() or 1, MOST_THREADS)


@functools.cache
def host_name() -> str:
    """LLVM's name of this processor."""
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name())


@functools.cache
def host_features() -> str:
    """LLVM's list of this processor's features; asking takes a quarter of a millisecond."""
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_features().flatten())


def processor_name() -> str:
    """LLVM's name of this processor, or the one in NUMBA_CPU_NAME."""
    return os.environ.get("NUMBA_CPU_NAME") or host_name()


def processor_features() -> str:
    """LLVM's list of this processor's features, or that in NUMBA_CPU_FEATURES."""
    forced = os.environ.get("NUMBA_CPU_FEATURES")
    return host_features() if forced is None else forced
