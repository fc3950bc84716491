"""A plan bound to the CPU: buffers, compiled kernels, and the step tables that the driver walks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import masks, shuffle
from fastbp.backends.contract import EPOCH_SUMS, KERNELS, Batch, Scalar, Status
from fastbp.backends.cpu.buffers import Buffers
from fastbp.backends.cpu.job import Job, Mode
from fastbp.backends.cpu.machine_code import bind, bind_kernel, bind_product
from fastbp.backends.cpu.pace import Pace
from fastbp.backends.cpu.state import read_state, write_state
from fastbp.backends.cpu.tuning import PARALLEL_MULTIPLY_ADDS, tile_shape
from fastbp.backends.cpu.workers import POOL, entry
from fastbp.backends.layout import FlatParameters, RowsOfBatch, read_panels
from fastbp.plan import Plan, Step, Tile

__all__ = ["Engine", "bind_kernel"]


class Engine(RowsOfBatch):
    """Runs a plan on the CPU.

    Parameters
    ----------
    plan : Plan
    threads : int
        The most threads to use. A plan runs serially when it has less work than
        `PARALLEL_MULTIPLY_ADDS` a batch, when `threads` is 1, and for as long as serial calls are
        measured to be faster; the results are the same.
    parallel : bool, optional
        Overrides the first part of that rule.
    shared : mapping of str to Engine
        Slabs that lie in another engine's buffers.
    """

    def __init__(
        self,
        plan: Plan,
        threads: int,
        *,
        parallel: bool | None = None,
        shared: Mapping[str, Engine] | None = None,
    ) -> None:
        self.plan = plan
        self.threads = threads
        self.flat = FlatParameters(plan)
        self.parallel = (
            threads > 1 and plan.multiply_adds >= PARALLEL_MULTIPLY_ADDS
            if parallel is None
            else threads > 1 and parallel
        )
        self.buffers: Buffers = Buffers(
            plan, {name: engine.buffers for name, engine in (shared or {}).items()}
        )
        self.batch: NDArray[np.int64] = self.buffers.vector("batch")
        self.scalars = self.buffers.vector("scalars")
        self.scalars[Scalar.LOSS_LIMIT] = np.inf
        self.scalars[Scalar.AVERAGE_DECAY] = plan.ema or 0.0
        self.learning_rates = np.zeros(1)
        self.ran_parallel = False
        self.bound: dict[str, NDArray[Any]] = {}
        self.data_positions: dict[str, list[int]] = {}
        self.arguments: list[int] = []
        self.batch_rows = plan.batch_rows
        self.build_tables()
        self.shares = {workers: self.share_tiles(workers) for workers in {1, self.workers}}
        self.round_shares = {workers: self.share_rounds(workers) for workers in {1, self.workers}}
        self.fill_slots()
        self.pace = Pace(self.parallel)
        self.build_job()

    # Tables.

    def build_tables(self) -> None:
        plan = self.plan
        once = (plan.order, plan.reduce_loss, plan.begin, plan.reduce_tiles)
        follow = [step for each in plan.rounds for step in each.steps]
        steps = [*plan.propagation, *once, *plan.weight_steps, *follow]
        starts = [self.add_arguments(step) if step else 0 for step in steps]
        self.argument_table = np.array(self.arguments, dtype=np.int64)
        base = self.argument_table.ctypes.data
        table = np.zeros((len(steps), 2), dtype=np.int64)
        for i, (each, start) in enumerate(zip(steps, starts, strict=True)):
            if each:
                table[i] = bind_kernel(each, plan.dtype), base + 8 * start
        first, second = len(plan.propagation), len(plan.propagation) + len(once)
        self.propagation = table[:first].copy()
        self.once = table[first:second].copy()
        third = second + len(plan.weight_steps)
        self.weight_steps, self.round_steps = table[second:third].copy(), table[third:].copy()
        self.tiles = tile_table(plan.tiles, 0)
        begins = np.cumsum([0, *(len(each.steps) for each in plan.rounds)]).tolist()
        rounds = [tile_table(r.tiles, begin) for begin, r in zip(begins, plan.rounds, strict=False)]
        self.round_tiles = np.concatenate([np.zeros((0, 5), dtype=np.int64), *rounds])

    @property
    def workers(self) -> int:
        """How many shares the work of a pass is cut into."""
        return self.threads if self.parallel else 1

    def share_tiles(self, workers: int) -> NDArray[np.int64]:
        """Where each worker's run of tiles begins, so that all have about the same work."""
        return equal_shares([self.cost_of(tile) for tile in self.plan.tiles], workers)

    def share_rounds(self, workers: int) -> NDArray[np.int64]:
        """The same for the tiles of every round, which follow one another."""
        shares, first = [], 0
        for each in self.plan.rounds:
            costs = [tile.last_row - tile.first_row for tile in each.tiles]
            shares.append(first + equal_shares(costs, workers))
            first += len(costs)
        return np.array(shares, dtype=np.int64).reshape(len(shares), workers + 1)

    def cost_of(self, tile: Tile) -> int:
        """About how much work a tile is: its lines, and what a tile costs besides."""
        tensor, most = self.buffers.tensors[tile.parameter], self.plan.geometry.panel_lines
        lines = tensor.padded_columns // self.plan.line
        count = tile.last_row - tile.first_row
        if tensor.rows == 1:  # a tile of panels; a chain of additions is no faster than four lines
            return 4 * min(count * most, lines)
        return (count + 4) * min(lines - tile.first_row // tensor.rows * most, most)

    def build_job(self) -> None:
        """The vector that the driver is called with, and the drivers, now and not in an epoch."""
        plan = self.plan
        self.drivers = {
            kind: bind("run_batches", "", None, int(kind)) for kind in {False, self.parallel}
        }
        self.call_in_mode = entry("call_in_mode")
        self.clip_norm = np.array([np.inf if plan.clip_norm is None else plan.clip_norm])
        self.job = np.zeros(Job.COUNT, dtype=np.int64)
        self.job_address = self.job.ctypes.data
        # Derivatives that are asked for are exact to rounding, subnormal numbers included.
        self.job[Job.MODE] = Mode.FLUSH if plan.purpose == "train" else Mode.GRADUAL
        for place, table in (
            (Job.PROPAGATION, self.propagation),
            (Job.ONCE, self.once),
            (Job.WEIGHT_STEPS, self.weight_steps),
            (Job.TILES, self.tiles),
            (Job.BATCH, self.batch),
            (Job.SCALARS, self.scalars),
            (Job.CLIP_NORM, self.clip_norm),
            (Job.ROUND_STEPS, self.round_steps),
            (Job.ROUND_TILES, self.round_tiles),
        ):
            self.job[place] = table.ctypes.data
        self.job[Job.STEPS] = len(plan.propagation)
        self.job[Job.BATCH_ROWS] = self.batch_rows
        self.job[Job.SEGMENT_ROWS] = plan.segment_rows
        self.job[Job.ROW_BLOCK] = plan.row_block
        self.job[Job.ROW_UNIT] = plan.row_unit
        self.job[Job.ROUNDS] = len(plan.rounds)

    def add_arguments(self, step: Step) -> int:
        """Append a step's row of arguments; return where it starts."""
        start = len(self.arguments)
        for name in step.tensors:
            tensor = self.buffers.tensors[name]
            if tensor.slab == "data":
                self.data_positions.setdefault(name, []).append(len(self.arguments))
                self.arguments += [0, 0, 0]
            else:
                self.arguments += [self.buffers.address(name), tensor.rows, tensor.padded_columns]
        self.arguments += step.sizes
        if KERNELS[step.kernel].product:
            products = [0] * self.plan.geometry.panel_lines
            for lines in self.panel_lines(step):
                products[lines - 1] = bind_product(self.plan.dtype, tile_shape(lines))
            self.arguments += products
        return start

    def panel_lines(self, step: Step) -> set[int]:
        """How many lines wide the panels are that a step's product fills, if it has a product."""
        contract = KERNELS[step.kernel]
        names = dict(zip(contract.tensors, step.tensors, strict=True))
        sizes = dict(zip(contract.sizes, step.sizes, strict=True))
        if names.get("inputs") == "none" or sizes.get("thin"):  # a bias; sums along the inputs
            return set()
        tensor = self.buffers.tensors[step.tensors[0]]
        most, line = self.plan.geometry.panel_lines, self.plan.line
        full, left = divmod(tensor.padded_columns // line, most)
        return {lines for lines, some in ((most, full), (left, left)) if some}

    def bind(self, name: str, array: NDArray[Any] | None, source: Any = None) -> None:
        """Point a data tensor at a C-contiguous array, or at nothing.

        What the array was made from (`source`) is of no concern to a processor.
        """
        if name not in self.data_positions:
            return
        entry = [0, 0, 0]
        if array is not None:
            columns = array.shape[1] if array.ndim == 2 else 1
            entry = [array.ctypes.data, array.shape[0], columns]
            self.bound[name] = array  # keeps the memory alive
        for position in self.data_positions[name]:
            self.argument_table[position : position + 3] = entry

    def release(self) -> None:
        """Let go of the arrays that data tensors point at."""
        for name in list(self.bound):
            self.bind(name, None)
        self.bound.clear()

    def close(self) -> None:
        """Let go of all that is bound; the memory goes with the engine."""
        self.release()

    # Parameters.

    def fill_slots(self) -> None:
        """Give the optimizer's slots their initial values."""
        optimizer = self.plan.optimizer
        if optimizer is None:
            return
        for name, _ in self.plan.network.parameters():
            for slot in optimizer.slots:
                self.buffers.write(f"{name}.{slot}", np.array(optimizer.initial_slot(slot)))

    def load_parameters(self, flat: NDArray[Any]) -> None:
        """Copy a flat parameter vector into the slab, and into the transposed copies."""
        for name, matrix in self.flat.matrices(flat):
            self.buffers.write(name, matrix)
            if f"{name}.transposed" in self.buffers.tensors:
                self.buffers.write(f"{name}.transposed", matrix.T)

    def snapshot(self, out: NDArray[Any] | None = None, slab: str = "parameters") -> NDArray[Any]:
        """A copy of the slab of the parameters, padding (zeros) included; into `out`, if given.

        The slab of their ``"averages"`` is laid out in the same way.
        """
        source = self.buffers.slabs[slab]
        if out is None:
            return source.copy()
        np.copyto(out, source)
        return out

    def store_parameters(self, flat: NDArray[Any], snapshot: NDArray[Any] | None = None) -> None:
        """Copy the parameters, or those of a snapshot, into a flat vector."""
        self.store(flat, "", snapshot)

    def store_gradient(self, flat: NDArray[Any]) -> None:
        """Copy the gradient into a flat vector."""
        self.store(flat, ".gradient")

    def store(self, flat: NDArray[Any], suffix: str, snapshot: NDArray[Any] | None = None) -> None:
        buffers, geometry = self.buffers, self.plan.geometry
        for name, matrix in self.flat.matrices(flat):
            tensor = buffers.tensors[f"{name}{suffix}"]
            slab = buffers.slabs[tensor.slab] if snapshot is None else snapshot
            read_panels(tensor, geometry, slab, matrix)

    def read_state(self) -> dict[str, NDArray[Any]]:
        """What training has changed, in flat vectors and in the order of the network."""
        return read_state(self)

    def write_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state that `read_state` gave."""
        write_state(self, state)

    def load_scalars(self, values: NDArray[np.float64]) -> None:
        """Set all scalars."""
        self.scalars[...] = values

    # Running.

    def begin_epoch(
        self,
        data_rows: int,
        *,
        shuffle_seed: int | None = None,
        mask_seed: int | None = None,
        epoch: int = 0,
        learning_rates: NDArray[np.float64] | None = None,
    ) -> None:
        """Set what is constant during an epoch and clear its sums.

        Parameters
        ----------
        data_rows : int
        shuffle_seed : int, optional
            Visit the rows in the order of `fastbp.shuffle` for this seed and `epoch`.
        mask_seed : int, optional
            With `epoch`, it settles which values are dropped; needed where the plan drops any.
        learning_rates : array of float64, optional
            One for each batch of the epoch.
        """
        self.batch[Batch.DATA_ROWS] = data_rows
        self.batch[Batch.ORDER_BEGIN] = self.batch[Batch.ORDER_END] = 0
        self.batch[Batch.SHUFFLE] = int(shuffle_seed is not None)
        if shuffle_seed is not None:
            self.batch[Batch.BITS] = shuffle.index_bits(data_rows)
            self.buffers.vector("keys")[:] = shuffle.round_keys(shuffle_seed, epoch)
        if "mask_keys" in self.buffers.tensors:
            assert mask_seed is not None, "a plan with masks needs their seed"
            self.buffers.vector("mask_keys")[:] = masks.epoch_keys(mask_seed, epoch)
        if learning_rates is not None:
            self.learning_rates = learning_rates
        self.scalars[EPOCH_SUMS] = 0.0

    def run(
        self, first_batch: int, last_batch: int, parallel: bool | None = None
    ) -> tuple[Status, int]:
        """Run some batches of the epoch; return how it ended and how many were completed.

        Where the process's workers are busy with another call, this one runs serially.
        """
        wanted = self.parallel if parallel is None else parallel and self.parallel
        job = self.job
        job[Job.LEARNING_RATES] = self.learning_rates.ctypes.data
        job[Job.FIRST], job[Job.LAST] = first_batch, last_batch
        job[Job.RESULT] = Status.DONE
        self.ran_parallel = wanted and self.run_on(self.workers)
        if not self.ran_parallel:
            self.set_driver(1)
            self.call_in_mode(self.job_address, 0, 1)
        return Status(job[Job.RESULT]), int(job[Job.DONE])

    def run_on(self, workers: int) -> bool:
        """Run the job on the process's workers, if they are to be had."""
        self.set_driver(workers)
        return POOL.run(self.job, workers)

    def set_driver(self, workers: int) -> None:
        """Choose the driver and the shares for some workers."""
        self.job[Job.FUNCTION] = self.drivers[workers > 1]
        self.job[Job.SHARES] = self.shares[workers].ctypes.data
        self.job[Job.ROUND_SHARES] = self.round_shares[workers].ctypes.data

    def run_in_calls(
        self, last: int, first: int = 0, between: Callable[[], None] | None = None
    ) -> tuple[Status, int]:
        """Run batches first <= b < last of the epoch, in calls short enough for Ctrl-C.

        Returns how it ended and the number of the batch that follows; `between` is called between
        two calls.
        """
        done = first
        while done < last:
            parallel, wanted = self.pace.next_call()
            end = min(done + wanted, last)
            started = time.perf_counter()
            status, completed = self.run(done, end, parallel)
            seconds = time.perf_counter() - started
            if self.ran_parallel == parallel:  # or its time says nothing about the other driver
                self.pace.measured(parallel, end - done, seconds)
            if status is not Status.DONE:
                return status, done + completed
            done = end
            if between is not None and done < last:
                between()
        return Status.DONE, done

    def run_all(self, data_rows: int) -> None:
        """Run every batch of a data set once, in order."""
        self.begin_epoch(data_rows)
        self.run_in_calls(-(-data_rows // self.batch_rows))


def tile_table(tiles: Sequence[Tile], first_step: int) -> NDArray[np.int64]:
    """Tiles as the driver reads them; their steps are counted from a place of a longer table."""
    rows = [
        (
            first_step + tile.gradient_begin,
            first_step + tile.gradient_end,
            first_step + tile.update_end,
            tile.first_row,
            tile.last_row,
        )
        for tile in tiles
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), 5)


def equal_shares(costs: Sequence[float], workers: int) -> NDArray[np.int64]:
    """Where each worker's run begins, so that all have about the same cost."""
    reached = np.concatenate([[0], np.cumsum(costs, dtype=np.float64)])
    goals = reached[-1] * np.arange(workers + 1) / workers
    shares: NDArray[np.int64] = np.searchsorted(reached, goals - 1e-9).astype(np.int64)
    shares[-1] = len(costs)
    return shares
