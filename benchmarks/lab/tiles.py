"""Shapes of register tiles: ``python -m benchmarks.lab.tiles [--dtype float64]``.

The product of some rows with one panel, for panels of one to four lines and tiles of several
heights: as the forward pass reads A (row by row) and as the gradient of a weight does (transposed).
Each is checked against NumPy, then timed in turns with the peak of multiply-adds in registers.
Prints the share of that peak, median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from numba import njit, types

from benchmarks.lab.cases import Tensor
from benchmarks.peak import gigaflops
from fastbp.backends.cpu.intrinsics import as_pointer, call_product
from fastbp.backends.cpu.machine_code import bind_product
from fastbp.backends.cpu.tuning import PANEL_LINES, TILE_SHAPES, TileShape

SHAPES = [TileShape(64, 1, height, 1) for height in (8, 12)]
SHAPES += [TileShape(64, 2, height, 2) for height in (8, 12)]
SHAPES += [TileShape(64, 3, height, 3) for height in (6, 8)]
SHAPES += [TileShape(64, 4, height, 4) for height in (4, 5, 6)]
SHAPES += [TILE_SHAPES[name][PANEL_LINES - 1] for name in ("avx2", "neon")]
# Rows of A, depth, and whether A is read transposed.
SIZES = [(32, 32, False), (60, 64, False), (120, 256, False), (120, 1024, False)]
SIZES += [(60, 64, True), (60, 128, True), (60, 512, True)]
ROUNDS, SECONDS = 7, 0.02


@njit(nogil=True)
def repeat(times, address, kind, target, start, a, b, strides, rows, depth):
    """The product as the kernels call it, so many times."""
    for _ in range(times):
        call_product(
            address,
            as_pointer(target, kind),
            as_pointer(start, kind),
            0,
            as_pointer(a, kind),
            strides[0],
            strides[1],
            strides[2],
            strides[3],
            rows,
            as_pointer(b, kind),
            depth,
        )


def share(shape: TileShape, rows: int, depth: int, transposed: bool, dtype: str) -> float:
    """The share of the peak, after a check."""
    rng = np.random.default_rng(0)
    line = 64 // np.dtype(dtype).itemsize
    width = shape.lines * line
    left, right = rng.normal(size=(rows, depth)), rng.normal(size=(depth, width))
    a, b = Tensor(left.T if transposed else left, dtype), Tensor(right, dtype)
    high = min(a.panel, a.padded)  # columns of a panel of A
    strides = (1, high, depth, 0) if transposed else (high, 1, high, rows * high)
    target, start = Tensor(np.zeros((rows, width)), dtype), Tensor(np.zeros((1, width)), dtype)
    address = bind_product(dtype, shape)
    kind = {"float32": types.float32, "float64": types.float64}[dtype]
    places = [tensor.flat.ctypes.data for tensor in (target, start, a, b)]
    if transposed:
        rows = min(rows, high)  # a panel's worth

    def run(times: int) -> float:
        started = time.perf_counter()
        repeat(times, address, kind, *places, strides, rows, depth)
        return time.perf_counter() - started

    run(1)
    error = np.abs(target.read() - left @ right)[:rows].max()
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
    names = [f"{rows} x {depth}{' transposed' if t else ''}" for rows, depth, t in SIZES]
    print(f"| rows x vectors of bytes, lines | {' | '.join(names)} |")
    print(f"|{'---|' * (len(SIZES) + 1)}")
    for shape in SHAPES:
        cells = [f"{100 * share(shape, *size, dtype):.0f}%" for size in SIZES]
        name = f"{shape.height} x {shape.vectors} of {shape.vector_bytes}, {shape.lines}"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
