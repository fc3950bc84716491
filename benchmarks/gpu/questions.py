"""Measurements of the GPU and its driver by themselves: launches, replays, barriers, ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.helpers import Failed, Skipped
from benchmarks.gpu.kernels import (
    ADDED_FLOPS,
    BLOCK_BARRIERS,
    GRID_BARRIERS,
    MULTIPLY_ADD,
    SIDE,
    THREADS,
    empty,
)

__all__ = ["COMMANDS"]

LIBRARIES = ("nvrtc", "nvJitLink", "nvvm")
ARGUMENTS = (1, 4, 16)
LAUNCHES = 2_000
REPETITIONS = 5
GRAPH_LAUNCHES = 100
REPLAYS = 100
BARRIERS = 10_000
COPIED_BYTES = 2**30
COPIES = 10
MULTIPLY_ADD_SECONDS = 0.05


def first_device() -> Any:
    """The first GPU."""
    from fastbp.backends.choose import cuda_device

    return cuda_device("cuda:0")


def shown(path: str) -> str:
    """The end of a path: which package it belongs to, and not where that is installed."""
    return "/".join(Path(path).parts[-4:])


def find_libraries() -> dict[str, Any]:
    """Which files the compiler's libraries are in."""
    from cuda import pathfinder

    found, missing = {}, []
    for name in LIBRARIES:
        try:
            library = pathfinder.load_nvidia_dynamic_lib(name)
            found[name] = f"{shown(library.abs_path)} ({library.found_via})"
        except Exception as error:
            missing.append(f"{name}: {str(error).splitlines()[0]}")
    if missing:
        raise Failed("; ".join(missing))
    return {"files": found}


def best_seconds(work: Callable[[], None], wait: Callable[[], None]) -> tuple[float, float]:
    """The shortest time until the host has done some work, and until the device has too."""
    until_returned, until_done = [], []
    for _ in range(REPETITIONS):
        wait()
        started = time.perf_counter()
        work()
        until_returned.append(time.perf_counter() - started)
        wait()
        until_done.append(time.perf_counter() - started)
    return min(until_returned), min(until_done)


def per_launch(work: Callable[[], None], wait: Callable[[], None], count: int) -> dict[str, float]:
    """Microseconds of one of some launches."""
    returned, done = best_seconds(work, wait)
    return {"host": returned / count * 1e6, "done": done / count * 1e6}


def measure_launches(device: Any = None, launches: int = LAUNCHES) -> dict[str, Any]:
    """A launch through `Device.launch`, by its number of arguments."""
    device = device or first_device()
    found = {}
    for count in ARGUMENTS:
        handle, values = device.function(empty(count)), tuple(range(count))

        def work(handle: Any = handle, values: tuple[int, ...] = values) -> None:
            for _ in range(launches):
                device.launch(handle, 1, 32, 0, values)

        work()
        found[str(count)] = per_launch(work, device.synchronize, launches)
    return {"microseconds": found}


def measure_array_launches(launches: int = LAUNCHES) -> dict[str, Any]:
    """A launch through numba-cuda-mlir's own dispatcher, by its number of arrays."""
    try:
        from numba_cuda_mlir import cuda
    except ImportError as error:
        raise Skipped(f"numba-cuda-mlir cannot be imported: {error}") from error
    found = {}
    for count in ARGUMENTS:
        kernel = cuda.jit(empty(count).build(None, None, None))[1, 32]
        arrays = [cuda.to_device(np.zeros(16, np.float32)) for _ in range(count)]

        def work(kernel: Any = kernel, arrays: list[Any] = arrays) -> None:
            for _ in range(launches):
                kernel(*arrays)

        work()
        found[str(count)] = per_launch(work, cuda.synchronize, launches)
    return {"microseconds": found}


def measure_replay(
    device: Any = None, launches: int = GRAPH_LAUNCHES, replays: int = REPLAYS
) -> dict[str, Any]:
    """A launch in a recorded graph, and whether each replay runs all of them."""
    device = device or first_device()
    address = device.allocate(8 * (launches + 1))
    try:
        cell = np.zeros(1, np.int64)
        handle = device.function(empty(1))
        device.upload(address, np.arange(launches + 1))

        def move() -> None:  # each copy moves one number on, so that a lost one is seen
            for i in range(launches, 0, -1):
                device.copy(address + 8 * i, address + 8 * (i - 1), 8)

        graph = device.capture(move)
        graph.launch()
        graph.launch()
        device.synchronize()
        device.download(cell, address + 8 * launches)
        if int(cell[0]) != max(launches - 2, 0):
            raise Failed(f"two replays moved {int(cell[0])} where {launches - 2} belongs")
    finally:
        device.free(address)

    def record(count: int) -> Any:
        return device.capture(lambda: [device.launch(handle, 1, 32, 0, (0,)) for _ in range(count)])

    found = {}
    for count in (1, launches):
        graph = record(count)

        def work(graph: Any = graph) -> None:
            for _ in range(replays):
                graph.launch()

        work()
        found[str(count)] = {
            **per_launch(work, device.synchronize, count * replays),
            "host_per_replay": per_launch(work, device.synchronize, replays)["host"],
        }
    return {"works": True, "microseconds": found}


def measure_barriers(device: Any = None, count: int = BARRIERS) -> dict[str, Any]:
    """A barrier of a grid of one block, of one block on each multiprocessor, and of a block."""
    device = device or first_device()
    counter, found = device.allocate(8), {}
    device.fill_zero(counter, 8)
    try:
        for name, entry, grid in (
            ("grid of 1 block", GRID_BARRIERS, 1),
            (f"grid of {device.multiprocessors} blocks", GRID_BARRIERS, device.multiprocessors),
            ("block", BLOCK_BARRIERS, 1),
        ):
            handle, is_cooperative = device.function(entry), entry is GRID_BARRIERS

            def seconds(
                barriers: int,
                handle: Any = handle,
                grid: int = grid,
                is_cooperative: bool = is_cooperative,
            ) -> float:
                def work() -> None:
                    numbers = (barriers, counter)
                    device.launch(handle, grid, THREADS, 0, numbers, cooperative=is_cooperative)

                work()
                return best_seconds(work, device.synchronize)[1]

            found[name] = (seconds(count) - seconds(0)) / count * 1e6
    finally:
        device.free(counter)
    return {"microseconds": found}


def measure_copy(device: Any = None, nbytes: int = COPIED_BYTES) -> dict[str, Any]:
    """Bytes a second, read and written, of a copy within the device."""
    device = device or first_device()
    source, target = device.allocate(nbytes), device.allocate(nbytes)
    try:
        device.fill_zero(source, nbytes)

        def work() -> None:
            for _ in range(COPIES):
                device.copy(target, source, nbytes)

        work()
        _, seconds = best_seconds(work, device.synchronize)
    finally:
        device.free(source)
        device.free(target)
    return {"bytes_per_second": 2 * nbytes * COPIES / seconds, "bytes": nbytes}


def measure_multiply_adds(
    device: Any = None, wanted: float = MULTIPLY_ADD_SECONDS
) -> dict[str, Any]:
    """Operations a second of float32 in chains of fused multiply-adds, two of them each."""
    device = device or first_device()
    handle = device.function(MULTIPLY_ADD)
    grid = 4 * device.most_blocks(handle, THREADS, 0)
    address = device.allocate(4 * (3 + grid * THREADS))
    try:
        # Products of 2**-24 are half of the last bit of 1, and rounded away: sums stay 1.
        device.upload(address, np.array([1.0, 2.0**-12, 2.0**-12], np.float32))

        def seconds(rounds: int) -> float:
            def work() -> None:
                device.launch(handle, grid, THREADS, 0, (address, rounds))

            work()
            return best_seconds(work, device.synchronize)[1]

        rounds, found = 1, seconds(1)
        while found < wanted:
            rounds *= 4
            found = seconds(rounds)
        last = np.zeros(1, np.float32)
        device.download(last, address + 4 * 3)
    finally:
        device.free(address)
    if last[0] != SIDE * SIDE:
        raise Failed(f"the sum is {last[0]:g} instead of {SIDE * SIDE}")
    return {"flops_per_second": ADDED_FLOPS * rounds * grid * THREADS / found, "rounds": rounds}


COMMANDS = {
    "libraries": find_libraries,
    "launches": measure_launches,
    "array_launches": measure_array_launches,
    "replay": measure_replay,
    "barriers": measure_barriers,
    "copy": measure_copy,
    "multiply_adds": measure_multiply_adds,
}
