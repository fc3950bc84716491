"""Where the time of a step goes: ``python -m benchmarks.lab.trace --workload tiny``.

Trains a workload serially through the engine's own tables, with the processor's time-stamp counter
read round every kernel, and prints the microseconds of each row of the plan, the rate of its
products, and what the rest of the step (the driver, the reading of the counter) takes. The counter
costs some ten nanoseconds a reading, which matters for networks whose kernels take as long.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

import fastbp as fb
from benchmarks.fastbp_side import make_model
from benchmarks.peak import gigaflops
from benchmarks.workloads import WORKLOADS, Workload, make_data
from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.intrinsics import call_kernel
from fastbp.losses import Loss
from fastbp.plan import build_plan
from fastbp.text import table

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
BEGINS, ENDS = int(Batch.BEGINS), int(Batch.ENDS)
STEP, LEARNING_RATE, CLIP_SCALE = (
    int(Scalar.STEP),
    int(Scalar.LEARNING_RATE),
    int(Scalar.CLIP_SCALE),
)


@intrinsic
def counter(typing_context):
    """The processor's time-stamp counter."""

    def generate(context, builder, signature, arguments):
        name = "llvm.readcyclecounter"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.IntType(64), []), name)
        return builder.call(function, [])

    return types.int64(), generate


@njit
def timed(step, ticks, place, first, last):
    """Call a kernel and add the ticks that it took."""
    started = counter()
    call_kernel(step[0], step[1], first, last)
    ticks[place] += counter() - started


@njit
def run(propagation, once, weight_steps, tiles, batch, scalars, rate, sizes, ticks):
    """Batches of an epoch as the driver runs them, with ticks for each step."""
    batch_size, segment_size, row_block, batches = sizes
    steps = propagation.shape[0]
    for number in range(batches):
        position = number * batch_size
        batch_rows = min(batch_size, batch[DATA_ROWS] - position)
        scalars[STEP] += 1.0
        scalars[LEARNING_RATE] = rate
        scalars[CLIP_SCALE] = 1.0
        timed(once[2], ticks, steps + 2, 0, 0)
        for begin in range(0, batch_rows, segment_size):
            rows = min(segment_size, batch_rows - begin)
            batch[POSITION] = position + begin
            batch[ROWS] = rows
            batch[BEGINS] = begin == 0
            batch[ENDS] = begin + rows == batch_rows
            timed(once[0], ticks, steps, 0, 0)
            for row in range(0, rows, row_block):
                for s in range(steps):
                    timed(propagation[s], ticks, s, row, min(row + row_block, rows))
            timed(once[1], ticks, steps + 1, 0, 0)
            column = 2 if batch[ENDS] != 0 and tiles[0, 0] == tiles[0, 1] else 1
            for t in range(tiles.shape[0]):
                for s in range(tiles[t, 0], tiles[t, column]):
                    timed(weight_steps[s], ticks, steps + 4 + s, tiles[t, 3], tiles[t, 4])
                if batch[ENDS] != 0 and column == 1:
                    for s in range(tiles[t, 1], tiles[t, 2]):
                        timed(weight_steps[s], ticks, steps + 4 + s, tiles[t, 3], tiles[t, 4])
        timed(once[3], ticks, steps + 3, 0, 0)


def products(step, plan, batch_rows: int) -> int:
    """Operations of the matrix product that a row of the plan is, or 0."""
    weight = {"dense_forward": 3, "dense_backward_data": 2, "dense_step": 0}
    weight["dense_weight_gradient"] = 0  # where each has a matrix of the weight's shape
    place = weight.get(step.kernel.removesuffix("_in_lanes"))
    if place is not None and "weight" in step.tensors[place]:
        tensor = next(t for t in plan.tensors if t.name == step.tensors[place])
        return 2 * batch_rows * tensor.rows * tensor.columns
    return 0


def trace(work: Workload, dtype: str, seconds: float) -> str:
    """The table of a workload."""
    X, y = make_data(work, dtype)
    model = make_model(work, dtype)
    optimizer = {"adam": fb.Adam, "sgd": fb.SGD}[work.optimizer](work.learning_rate)
    loss = Loss.resolve(work.loss, "loss")
    plan = build_plan(
        model.network, "train", dtype, work.batch_size, geometry("cpu"), loss=loss,
        optimizer=optimizer,
    )  # fmt: skip
    engine = create_engine(plan, "cpu", 1)
    engine.load_parameters(model.parameters)
    targets = y if y.dtype == np.int64 else y.reshape(len(y), -1)
    for name, array in (("inputs", X), ("targets", targets), ("weights", None)):
        engine.bind(f"data.{name}", array)
    batches = work.steps_per_epoch
    sizes = (work.batch_size, plan.segment_rows, plan.row_block, batches)
    once = [plan.order, plan.reduce_loss, plan.begin, plan.reduce_tiles]
    steps = [*plan.propagation, *once, *plan.weight_steps]
    ticks = np.zeros(len(steps), dtype=np.int64)

    def epoch(number: int, *, counted: bool) -> float:
        engine.begin_epoch(
            work.rows,
            shuffle_seed=0 if batches > 1 else None,
            epoch=number,
            learning_rates=np.full(batches, work.learning_rate),
        )
        tables = (engine.propagation, engine.once, engine.weight_steps, engine.tiles)
        started = time.perf_counter()
        if counted:
            run(*tables, engine.batch, engine.scalars, work.learning_rate, sizes, ticks)
        else:
            engine.run(0, batches, False)
        return time.perf_counter() - started

    epoch(0, counted=True)
    best, best_ticks, best_plain = np.inf, ticks.copy(), np.inf
    ends = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < ends:
        ticks[:] = 0
        number += 1
        best_plain = min(best_plain, epoch(number, counted=False))
        elapsed = epoch(number, counted=True)
        if elapsed < best:
            best, best_ticks = elapsed, ticks.copy()
    peak = gigaflops(dtype, 1, 0.1)
    rate = counter_rate()
    rows = []
    for step, spent in zip(steps, best_ticks, strict=True):
        if step is None:
            continue
        each = spent / rate / batches * 1e6
        flops = products(step, plan, work.batch_size)
        share = f"{100 * flops / each * 1e-3 / peak:.0f}%" if flops else ""
        rows.append((step.kernel, step.tensors[0], f"{each:.3f}", share))
    inside = best_ticks.sum() / rate / batches * 1e6
    whole = best_plain / batches * 1e6
    rows.append(("the kernels together", "", f"{inside:.3f}", ""))
    flops = 100 * work.step_flops / whole * 1e-3 / peak
    rows.append(("the step without counting", "", f"{whole:.3f}", f"{flops:.0f}%"))
    header = ("kernel", "first tensor", "us a step", f"of {peak:.0f} GFLOP/s")
    return "\n".join(table(header, rows))


@njit
def ticks_now():
    return counter()


def counter_rate() -> float:
    """Ticks of the counter in a second."""
    ticks_now()
    started, first = time.perf_counter(), ticks_now()
    while time.perf_counter() < started + 0.05:
        pass
    return (ticks_now() - first) / (time.perf_counter() - started)


def main() -> None:
    """One table for each workload asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="tiny", help="some of the benchmark's, with commas")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--seconds", default=1.0, type=float)
    options = parser.parse_args()
    for name in options.workload.split(","):
        print(f"{name}: {WORKLOADS[name].describe()}, {options.dtype}\n")
        print(trace(WORKLOADS[name], options.dtype, options.seconds) + "\n", flush=True)


if __name__ == "__main__":
    main()
