"""Shapes of register tiles: ``python -m benchmarks.lab.tiles [--dtype float64]``.

The product of some rows with one panel, as the forward pass calls it, for tiles of several heights
and vector widths: checked against NumPy, then timed in turns with the peak of multiply-adds in
registers. Prints the share of that peak, median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from numba import njit, types

from benchmarks.lab.kernels import Tensor
from benchmarks.peak import gigaflops
from fastbp.backends.cpu.intrinsics import as_pointer, call_product
from fastbp.backends.cpu.machine_code import bind_product
from fastbp.backends.cpu.tuning import TileShape

SHAPES = [TileShape(64, 2, height) for height in (4, 6, 8, 10, 12, 14)]
SHAPES += [TileShape(64, 1, 8), TileShape(32, 2, 6), TileShape(16, 4, 6)]
SIZES = [(32, 32), (64, 64), (64, 256), (128, 512), (128, 2048)]
ROUNDS, SECONDS = 7, 0.02


@njit(nogil=True)
def repeat(times, address, kind, target, start, a, b, rows, depth, width):
    """The product as `dense_forward` calls it, so many times."""
    for _ in range(times):
        call_product(
            address,
            as_pointer(target, kind),
            width,
            as_pointer(start, kind),
            0,
            as_pointer(a, kind),
            width,
            1,
            width,
            rows * width,
            rows,
            as_pointer(b, kind),
            width,
            depth,
            width,
        )


def share(shape: TileShape, rows: int, depth: int, dtype: str) -> float:
    """The share of the peak, after a check."""
    rng = np.random.default_rng(0)
    width = 128 // np.dtype(dtype).itemsize
    left, right = rng.normal(size=(rows, depth)), rng.normal(size=(depth, width))
    a, b = Tensor(left, dtype), Tensor(right, dtype)
    target, start = Tensor(np.zeros((rows, width)), dtype), Tensor(np.zeros((1, width)), dtype)
    address = bind_product(dtype, shape)
    kind = {"float32": types.float32, "float64": types.float64}[dtype]
    places = [tensor.flat.ctypes.data for tensor in (target, start, a, b)]

    def run(times: int) -> float:
        started = time.perf_counter()
        repeat(times, address, kind, *places, rows, depth, width)
        return time.perf_counter() - started

    run(1)
    error = np.abs(target.read() - left @ right).max()
    assert error < 40 * np.sqrt(depth) * np.finfo(dtype).eps * 10, error
    times = max(1, int(SECONDS * 1e11 / (2 * rows * depth * width)))
    shares = []
    for _ in range(ROUNDS):
        peak = gigaflops(dtype, 1, SECONDS)
        shares.append(2 * rows * depth * width * times / run(times) * 1e-9 / peak)
    return statistics.median(shares)


def main() -> None:
    """A row for each shape, a column for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    dtype = parser.parse_args().dtype
    columns = " | ".join(f"{rows} x {depth}" for rows, depth in SIZES)
    print(f"| rows x vectors of bytes | {columns} |\n|{'---|' * (len(SIZES) + 1)}")
    for shape in SHAPES:
        cells = [f"{100 * share(shape, *size, dtype):.0f}%" for size in SIZES]
        name = f"{shape.height} x {shape.vectors} of {shape.vector_bytes}"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
