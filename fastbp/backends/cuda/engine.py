"""A plan bound to a GPU: device memory, tables, and the launches of its batches."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import masks, shuffle
from fastbp.backends.contract import EPOCH_SUMS, Batch, Scalar, Status
from fastbp.backends.cuda.buffers import (
    Buffers,
    DataArrays,
    Memory,
    require_memory,
    steps_of,
    table_sizes,
)
from fastbp.backends.cuda.interrupts import uninterrupted
from fastbp.backends.cuda.job import Job
from fastbp.backends.cuda.pace import Pace
from fastbp.backends.cuda.parameters import ParametersOfEngine
from fastbp.backends.cuda.program import Program
from fastbp.backends.cuda.rounds import round_rows, rows_of_rounds
from fastbp.backends.cuda.tuning import THREADS
from fastbp.backends.layout import FlatParameters, RowsOfBatch
from fastbp.errors import DeviceError
from fastbp.plan import Plan, Step

__all__ = ["Engine"]

INPUTS = "data.inputs"
RATES, RATE_BYTES = "learning rates", 8  # of a batch
RESERVED_SHARED = 2048  # bytes of shared memory that are left to the compiler and the system


class Engine(ParametersOfEngine, RowsOfBatch):
    """Runs a plan on a GPU.

    Device memory is taken by the first `load_parameters` or `begin_epoch`, and after each `bind` by
    the next one: then all is known that the plan, the data and the engines that share its slabs
    need, and is added up and compared with what is free before any of it is allocated.

    Parameters
    ----------
    plan : Plan
    device : Device
    shared : mapping of str to Engine
        Slabs that lie in another engine's buffers.
    """

    def __init__(
        self, plan: Plan, device: Any, *, shared: Mapping[str, Engine] | None = None
    ) -> None:
        self.plan, self.device = plan, device
        self.owners = list((shared or {}).values())
        self.sharers: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.flat = FlatParameters(plan)
        self.program = Program(plan, device.shared_bytes - RESERVED_SHARED)
        self.buffers: Buffers = Buffers(
            plan,
            device,
            table_sizes(plan),
            {name: engine.buffers for name, engine in (shared or {}).items()},
        )
        self.data = DataArrays(plan, device)
        self.batch_rows = plan.batch_rows
        self.rates_memory: Memory | None = None
        self.scalars = np.zeros(int(Scalar.COUNT))
        self.scalars[Scalar.LOSS_LIMIT] = np.inf
        self.scalars[Scalar.AVERAGE_DECAY] = plan.ema or 0.0
        self.batch = np.zeros(int(Batch.COUNT), dtype=np.int64)
        self.job = np.zeros(int(Job.COUNT), dtype=np.int64)
        self.pace = Pace()
        self.graph: Any = None
        self.is_allocated = False
        for owner in self.owners:
            owner.sharers.add(self)

    # Memory.

    def prepare(self) -> None:
        """Allocate what this engine and those that share its slabs still lack, and send the data.

        Raises
        ------
        DeviceError
            If it is more than the device has free; nothing has been allocated then.
        """
        for owner in self.owners:
            owner.prepare()
        engines = [self, *self.sharers]
        if all(engine.is_allocated and not engine.data.changed for engine in engines):
            return
        wanted: dict[str, int] = {}
        for engine in engines:
            wanted |= engine.missing_bytes()
        require_memory(self.device, wanted)
        for engine in engines:
            engine.allocate()

    def missing_bytes(self) -> dict[str, int]:
        """The bytes of all that has no memory yet, by what it is for."""
        purpose, arrays = self.plan.purpose, self.data.arrays
        wanted = {} if self.is_allocated else {f"{purpose} plan": self.buffers.nbytes}
        for name, nbytes in self.data.missing_bytes().items():
            wanted[f"{purpose} {name.partition('.')[2]}"] = nbytes
        if self.plan.begin and self.rates_memory is None and INPUTS in arrays:
            wanted[RATES] = RATE_BYTES * -(-len(arrays[INPUTS]) // self.batch_rows)
        return wanted

    def allocate(self) -> None:
        """Take the memory that is missing, and fill it."""
        rates_bytes = self.missing_bytes().get(RATES)
        if not self.is_allocated:
            self.buffers.allocate()
            self.build_tables()
            self.fill_slots()
            launches, device = self.program.batch, self.device
            self.handles = {launch: device.function(launch.entry) for launch in launches}
            self.grids = {launch: self.grid_of(launch) for launch in launches}
            self.is_allocated = True
        if rates_bytes is not None:
            self.rates_memory = Memory(self.device, rates_bytes)
        for name, entry in self.data.send().items():
            for position in self.data_positions[name]:
                self.argument_table[position : position + 3] = entry
            self.arguments_are_sent = False

    # Tables.

    def build_tables(self) -> None:
        """Fill the tables, and send them to the device."""
        plan, addresses = self.plan, self.buffers.addresses
        self.arguments: list[int] = []
        self.data_positions: dict[str, list[int]] = {}
        starts = {}
        for step in steps_of(self.plan):
            starts[id(step)] = addresses["table.arguments"] + 8 * self.add_arguments(step)
        self.argument_table = np.array(self.arguments, dtype=np.int64)
        program = [
            (number, starts[id(step)], source, target, shares)
            for step, number, source, target, shares in self.program.steps
        ]
        self.device.upload(addresses["table.program"], np.array(program, dtype=np.int64))
        rows = []
        for tile in plan.tiles:
            steps = plan.weight_steps[tile.gradient_begin : tile.update_end]
            by_name = {step.kernel: starts[id(step)] for step in steps}
            is_bias = "dense_bias_gradient" in by_name
            gradient = by_name["dense_bias_gradient" if is_bias else "dense_weight_gradient"]
            others = (by_name.get("update_parameters", 0), by_name.get("transpose_weight", 0))
            rows.append((int(is_bias), gradient, *others, tile.first_row, tile.last_row))
        if rows:
            self.device.upload(addresses["table.tiles"], np.array(rows, dtype=np.int64))
        if plan.rounds:
            follow = np.array(round_rows(plan, starts), dtype=np.int64)
            self.device.upload(addresses["table.rounds"], follow)
        of_rounds = rows_of_rounds(plan)
        bound = np.array([np.inf if plan.clip_norm is None else plan.clip_norm])
        self.device.upload(addresses["table.clip_norm"], bound)
        for place, value in {
            Job.BATCH_ROWS: plan.batch_rows,
            Job.SEGMENT_ROWS: plan.segment_rows,
            Job.SEGMENTS: self.program.segments,
            Job.PROGRAM: addresses["table.program"],
            Job.STEPS: len(program),
            Job.TILES: addresses["table.tiles"],
            Job.TILE_COUNT: len(rows),
            Job.SHARES: plan.shares,
            Job.BATCH: self.buffers.address("batch"),
            Job.SCALARS: self.buffers.address("scalars"),
            Job.CLIP_NORM: addresses["table.clip_norm"],
            Job.REDUCE_LOSS: starts.get(id(plan.reduce_loss), 0),
            Job.BEGIN_STEP: starts.get(id(plan.begin), 0),
            Job.REDUCE_TILES: starts.get(id(plan.reduce_tiles), 0),
            Job.STRIDE: self.program.stride,
            Job.STAGING: self.program.staging,
            Job.IMAGE: self.buffers.base,
            Job.IMAGE_COUNT: self.buffers.nbytes // 8,
            Job.HELD: self.buffers.parameter_bytes // 8,
            Job.TABLES: (addresses["table.arguments"] - self.buffers.base) // 8,
            Job.WORK: self.program.work_bytes // 8,
            Job.ROUNDS: addresses.get("table.rounds", 0),
            Job.CONSTRAINT_ROWS: of_rounds["constrain_weight"],
            Job.AVERAGE_ROWS: of_rounds["average_parameters"],
        }.items():
            self.job[place] = value
        self.arguments_are_sent = False

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
        return start

    def grid_of(self, launch: Any) -> int:
        """How many blocks a launch has: as many as can meet, where they wait for one another."""
        if not launch.cooperative:
            return int(launch.grid)
        handle = self.handles[launch]
        most = self.device.most_blocks(handle, THREADS, self.program.bytes_of_shared)
        return int(min(launch.grid, most))

    # Data.

    def bind(self, name: str, array: NDArray[Any] | None, source: Any = None) -> None:
        """Point a data tensor at an array, which `prepare` copies to the device; or at nothing.

        `source` is what the array was made from: where that lies on this device with the same
        numbers in the same order, it is used as it is.
        """
        self.data.bind(name, array, source)

    def release(self) -> None:
        """Let go of the arrays that data tensors point at, and of their device memory."""
        self.data.release()

    def close(self) -> None:
        """Give all device memory back; the engine is of no use afterwards."""
        with contextlib.suppress(DeviceError):  # a broken device has no memory to give back
            self.release()
        if self.rates_memory is not None:
            self.rates_memory.close()
        self.graph = None
        self.buffers.close()
        for owner in self.owners:
            owner.sharers.discard(self)

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

        Raises
        ------
        DeviceError
            As `prepare`.
        """
        self.prepare()
        batch = self.batch
        batch[Batch.DATA_ROWS] = data_rows
        batch[Batch.SHUFFLE] = int(shuffle_seed is not None)
        if shuffle_seed is not None:
            batch[Batch.BITS] = shuffle.index_bits(data_rows)
            self.buffers.upload("keys", shuffle.round_keys(shuffle_seed, epoch))
        if "mask_keys" in self.buffers.tensors:
            assert mask_seed is not None
            self.buffers.upload("mask_keys", masks.epoch_keys(mask_seed, epoch))
        if learning_rates is not None:
            self.send_rates(learning_rates)
        self.scalars[EPOCH_SUMS] = 0.0
        self.buffers.upload("scalars", self.scalars)

    def send_rates(self, rates: NDArray[np.float64]) -> None:
        """The learning rates of an epoch: one number, if all are the same."""
        is_same = bool((rates == rates[0]).all())
        wanted = rates[:1] if is_same else rates
        memory = self.rates_memory
        if memory is None or memory.nbytes < rates.nbytes:
            memory = self.rates_memory = Memory(self.device, rates.nbytes)
        self.device.upload(memory.address, np.ascontiguousarray(wanted))
        self.job[Job.LEARNING_RATES] = memory.address
        self.job[Job.RATE_STEP] = int(not is_same)

    def run(self, first_batch: int, last_batch: int) -> tuple[Status, int]:
        """Run some batches of the epoch; return how it ended and how many were completed."""
        job, batch, plan = self.job, self.batch, self.plan
        begin = first_batch * plan.batch_rows
        rows = min(plan.batch_rows, int(batch[Batch.DATA_ROWS]) - begin)
        batch[Batch.POSITION] = begin
        batch[Batch.ROWS] = min(rows, plan.segment_rows)
        batch[Batch.BEGINS], batch[Batch.ENDS] = 1, int(self.program.segments == 1)
        if not self.arguments_are_sent:
            self.device.upload(self.buffers.addresses["table.arguments"], self.argument_table)
            self.arguments_are_sent = True
        self.buffers.upload("batch", batch)
        job[Job.STATUS], job[Job.DONE] = Status.DONE, 0
        job[Job.NUMBER], job[Job.SEGMENT] = first_batch, 0
        with uninterrupted():
            return self.run_job(last_batch - first_batch)

    def run_job(self, batches: int) -> tuple[Status, int]:
        """Launch some batches, and wait for them."""
        address = self.buffers.addresses["table.job"]
        self.device.upload(address, self.job)
        if self.plan.way == "resident":
            self.launch(self.program.batch[0], 0, batches)
        else:
            for _ in range(batches):
                self.launch_batch(batches > 1)
        self.device.synchronize()
        ended = np.empty_like(self.job)
        self.device.download(ended, address)
        self.fetch_scalars()
        return Status(ended[Job.STATUS]), int(ended[Job.DONE])

    def launch_batch(self, is_repeated: bool) -> None:
        """Launch what a batch consists of, recorded once if it is repeated."""
        if self.graph is None and not is_repeated:
            self.launch_all()
            return
        if self.graph is None:
            self.graph = self.device.capture(self.launch_all)
        self.graph.launch()

    def launch_all(self) -> None:
        """The launches of a batch, one by one."""
        for launch in self.program.batch:
            self.launch(launch, launch.begin, launch.end)

    def launch(self, launch: Any, begin: int, end: int) -> None:
        self.device.launch(
            self.handles[launch],
            self.grids[launch],
            THREADS,
            self.program.bytes_of_shared,
            (self.buffers.addresses["table.job"], begin, end),
            cooperative=launch.cooperative,
        )

    def run_in_calls(
        self, last: int, first: int = 0, between: Callable[[], None] | None = None
    ) -> tuple[Status, int]:
        """Run batches first <= b < last of the epoch, in calls short enough for Ctrl-C.

        Returns how it ended and the number of the batch that follows; `between` is called after
        every call.
        """
        done = first
        while done < last:
            end = min(done + self.pace.batches, last)
            started = time.perf_counter()
            status, completed = self.run(done, end)
            self.pace.measured(end - done, time.perf_counter() - started)
            if status is not Status.DONE:
                return status, done + completed
            done = end
            if between is not None:
                between()
        return Status.DONE, done

    def run_all(self, data_rows: int) -> None:
        """Run every batch of a data set once, in order, and fetch the outputs."""
        self.begin_epoch(data_rows)
        self.run_in_calls(-(-data_rows // self.batch_rows))
        self.data.fetch_output()
