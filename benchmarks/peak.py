"""The machine's fused multiply-add peak, by a kernel without memory traffic.

Sixteen registers (twelve where there are only sixteen in all) of one vector each are multiplied and
added to in turn, long enough for the latency of one to be hidden by the others. The vectors are
explicit, so the result does not hang on an auto-vectoriser. The machine's clock drifts, so the
benchmark asks for a new measurement in every round, beside the contestants.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["Contestant", "gigaflops", "vector_lanes", "versions"]

RUN_SECONDS = 0.01  # short enough to fall between two interruptions
VECTOR_BYTES = {"avx512f": 64, "avx": 32}  # else 16, as SSE and NEON


def versions() -> dict[str, str]:
    """What is measured with."""
    return {"numba": numba.__version__}


@functools.cache
def vector_bytes() -> int:
    """Bytes of the widest vector register."""
    features = binding.get_host_cpu_features()
    return next((size for name, size in VECTOR_BYTES.items() if features.get(name)), 16)


def vector_lanes(dtype: str) -> int:
    """Numbers in the widest vector register."""
    return vector_bytes() // np.dtype(dtype).itemsize


@functools.cache
def chains(bytes_in_vector: int) -> int:
    """Independent accumulators: AVX-512 and NEON have 32 registers, AVX has 16."""
    return 12 if bytes_in_vector == 32 else 16


@functools.cache
def kernel(dtype: str) -> Callable[[int, float], float]:
    """``kernel(iterations, factor)``: each iteration is one fma on every accumulator."""
    lanes, count = vector_lanes(dtype), chains(vector_bytes())
    element = {"float32": ir.FloatType(), "float64": ir.DoubleType()}[dtype]
    vector = ir.VectorType(element, lanes)
    # llvmlite's declare_intrinsic refuses vectors, so the function goes by its mangled name.
    name = f"llvm.fma.v{lanes}f{8 * np.dtype(dtype).itemsize}"

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        iterations, factor = arguments
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), name
        )
        scalar = builder.fptrunc(factor, element) if dtype == "float32" else factor
        spread = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            spread = builder.insert_element(spread, scalar, ir.Constant(ir.IntType(32), lane))
        entry = builder.block
        loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        counter = builder.phi(iterations.type)
        counter.add_incoming(ir.Constant(iterations.type, 0), entry)
        sums = [builder.phi(vector) for _ in range(count)]
        # Different starting points, or the chains would be merged into one.
        starts = [ir.Constant(vector, [1.0 + i / 64] * lanes) for i in range(count)]
        following = [builder.call(fma, [total, spread, spread]) for total in sums]
        for total, start, after in zip(sums, starts, following, strict=True):
            total.add_incoming(start, entry)
            total.add_incoming(after, loop)
        advanced = builder.add(counter, ir.Constant(iterations.type, 1))
        counter.add_incoming(advanced, loop)
        builder.cbranch(builder.icmp_signed("<", advanced, iterations), loop, done)
        builder.position_at_end(done)
        total = functools.reduce(builder.fadd, following)
        parts = [
            builder.extract_element(total, ir.Constant(ir.IntType(32), lane))
            for lane in range(lanes)
        ]
        result = functools.reduce(builder.fadd, parts)
        return builder.fpext(result, ir.DoubleType()) if dtype == "float32" else result

    @intrinsic
    def accumulate(typing_context, iterations, factor):
        return numba.types.float64(numba.types.int64, numba.types.float64), generate

    @numba.njit("float64(int64, float64)", nogil=True)
    def run(iterations, factor):
        return accumulate(iterations, factor)

    return run


def flops(dtype: str, iterations: int) -> int:
    """Operations of one call of the kernel."""
    return 2 * vector_lanes(dtype) * chains(vector_bytes()) * iterations


def run_together(run: Callable[[int, float], float], iterations: int, threads: int) -> float:
    """Seconds in which every one of some threads makes one call."""
    if threads == 1:
        started = time.perf_counter()
        run(iterations, 0.5)
        return time.perf_counter() - started
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        run(iterations, 0.5)
        barrier.wait()

    members = [threading.Thread(target=work) for _ in range(threads)]
    for member in members:
        member.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - started
    for member in members:
        member.join()
    return seconds


def gigaflops(dtype: str, threads: int, seconds: float) -> float:
    """The best of several short runs, in 10**9 operations a second over all threads."""
    run = kernel(dtype)
    iterations, elapsed = 1000, 0.0
    while elapsed < RUN_SECONDS / 2:
        iterations *= 2
        elapsed = run_together(run, iterations, 1)
    best, ends = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < ends:
        elapsed = run_together(run, iterations, threads)
        best = max(best, threads * flops(dtype, iterations) / elapsed / 1e9)
    return best


class Contestant:
    """The peak as one that takes turns with the others."""

    def __init__(self, threads: int, dtype: str) -> None:
        self.threads, self.dtype = threads, dtype

    def compile(self) -> None:
        """The kernel."""
        kernel(self.dtype)

    def measure(self, seconds: float) -> float:
        """Gigaflops, from a part of the time that a contestant has."""
        return gigaflops(self.dtype, self.threads, min(seconds, 0.15))
