"""Every kernel of the CPU backend alone: reference, check, timing, share of the machine's limit.

``python -m benchmarks.lab.kernels [KERNEL ...] [--dtype float64] [--rows 256] [--width 256]``
(for rows in lanes ``--lane-width 16`` units after twice as many features)

Each kernel gets tensors of its own, is compared with NumPy in float64, and is then timed in turns
with a loop that measures the peak of fused multiply-adds, so that a slow moment of the machine hits
both. The last column is the share of that peak, for kernels that multiply matrices, or gigabytes a
second, for those that only move and map.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numba import njit

from benchmarks.lab.cases import Case, cases, cases_in_lanes
from benchmarks.lab.layer_cases import cases_of_layers
from benchmarks.peak import gigaflops
from fastbp.backends.contract import KERNELS, Batch
from fastbp.backends.cpu.engine import bind_kernel
from fastbp.backends.cpu.intrinsics import call_kernel
from fastbp.backends.cpu.machine_code import bind_product
from fastbp.backends.cpu.tuning import PANEL_LINES, tile_shape
from fastbp.plan import Step

ROUNDS, SECONDS = 7, 0.02


@njit(nogil=True)
def repeat(times, address, arguments, spans, reset):
    """Call a kernel on all spans, so many times; `reset` is set to zero before each."""
    for _ in range(times):
        reset[0] = 0
        for i in range(spans.shape[0]):
            call_kernel(address, arguments.ctypes.data, spans[i, 0], spans[i, 1])


def prepare(case: Case, dtype: str) -> Callable[[int], None]:
    """The calls of a case, bound to its tensors; how often is the argument."""
    contract = KERNELS[case.kernel]
    numbers: list[int] = []
    for name in contract.tensors:
        tensor = case.tensors[name]
        numbers += [0, 0, 0] if tensor is None else tensor.entry
    numbers += case.sizes
    if contract.product:
        numbers += [bind_product(dtype, tile_shape(lines)) for lines in range(1, PANEL_LINES + 1)]
    arguments = np.array(numbers, dtype=np.int64)
    address = bind_kernel(Step(case.kernel, contract.tensors, case.sizes, case.law), dtype)
    spans = np.array(case.spans, dtype=np.int64)
    reset = np.zeros(1, dtype=np.int64)
    batch = case.tensors.get("batch")
    if case.kernel == "order_rows" and batch is not None:  # or it would find its work done
        reset = batch.flat[int(Batch.ORDER_END) :]

    def run(times: int) -> None:
        repeat(times, address, arguments, spans, reset)

    return run


def check(case: Case, dtype: str) -> float:
    """The largest scaled error after one run; raises where it is beyond rounding."""
    worst = 0.0
    for name, expected in case.expected.items():
        tensor = case.tensors[name]
        assert tensor is not None
        found = tensor.read()
        if name == "row_index":
            found = np.sort(found)
        scale = max(1.0, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(found - expected).max()) / scale)
    if worst > 400 * np.finfo(dtype).eps:
        raise AssertionError(f"{case.kernel}: scaled error {worst:.1e}")
    return worst


def seconds_of(run: Callable[[int], None]) -> float:
    """Seconds of one run, over about `SECONDS`."""
    times, elapsed = 1, 0.0
    while elapsed < SECONDS / 4:
        times *= 4
        started = time.perf_counter()
        run(times)
        elapsed = time.perf_counter() - started
    return elapsed / times


def main() -> None:
    """Check and time the chosen kernels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kernels", nargs="*", help=f"all, or some of {', '.join(KERNELS)}")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lane-width", type=int, default=16)
    options = parser.parse_args()
    print(f"{options.rows} rows, layers of {options.width}, {options.dtype}\n")
    print("| kernel | scaled error | us | of peak | GB/s |\n|---|---|---|---|---|")
    for case in [
        *cases(options.dtype, options.rows, options.width),
        *cases_of_layers(options.dtype, options.rows, options.width),
        *cases_in_lanes(options.dtype, options.rows, options.lane_width),
    ]:
        if options.kernels and case.kernel not in options.kernels:
            continue
        run = prepare(case, options.dtype)
        run(1)
        worst = check(case, options.dtype)
        times, shares = [], []
        for _ in range(ROUNDS):
            peak = gigaflops(options.dtype, 1, SECONDS)
            times.append(seconds_of(run))
            shares.append(case.flops / times[-1] * 1e-9 / peak)
        share = f"{100 * statistics.median(shares):.0f}%" if case.flops else ""
        rate = f"{case.bytes / statistics.median(times) * 1e-9:.1f}" if case.bytes else ""
        print(
            f"| {case.kernel} | {worst:.0e} | {statistics.median(times) * 1e6:.2f} "
            f"| {share} | {rate} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
