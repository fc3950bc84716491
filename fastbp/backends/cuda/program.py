"""What a plan becomes on a device: tables of steps and tiles, and the launches of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastbp.backends.contract import KERNELS
from fastbp.backends.cuda.buffers import bytes_held
from fastbp.backends.cuda.entries import Entry, Kernel, Phase
from fastbp.backends.cuda.product import left_stride
from fastbp.backends.cuda.rounds import PHASES, rows_of_rounds
from fastbp.backends.cuda.tuning import (
    BLOCKS_HELD,
    DEPTH,
    SINGLE_TILES,
    THREADS,
    row_tile,
    tile_shape,
)
from fastbp.optimizers import Optimizer
from fastbp.plan import Plan, Step, Tensor

__all__ = ["Launch", "Program"]

PRODUCTS = ("dense_forward", "dense_backward_data")
SHORTEST_SHARED = 16 * THREADS  # bytes; what sums over a block need


@dataclass(frozen=True)
class Launch:
    """One launch: what runs, on how many blocks, and which steps of the program."""

    entry: Entry
    grid: int
    begin: int = 0
    end: int = 0
    cooperative: bool = False


@dataclass
class Program:
    """The tables and launches of a plan.

    Attributes
    ----------
    steps : list of (Step, kernel number, source, target, shares)
        Rows of the propagation pass; the first one orders the rows.
    batch : list of Launch
        What one batch launches, in order.
    shared_limit : int
        The most shared memory that a block can have.
    held : str
        What of the engine's memory is in shared memory while batches run, as `Entry` has it.
    """

    plan: Plan
    shared_limit: int
    held: str = "nothing"
    steps: list[tuple[Step, int, int, int, int]] = field(default_factory=list)
    batch: list[Launch] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        self.panel = plan.geometry.panel_lines * plan.line
        self.rows = row_tile(plan)
        self.is_fused = plan.way in {"fused", "resident"}
        self.stride = 0
        if self.is_fused:
            # Products write whole panels; a vector more keeps rows from the same banks.
            wide = [n for n in plan.network.sizes if n <= plan.geometry.fused_columns]
            self.stride = -(-max(wide) // self.panel) * self.panel + plan.line
            while self.work_bytes > self.shared_limit and self.rows // 2 >= self.least_rows:
                self.rows //= 2
        self.segments = -(-plan.batch_rows // plan.segment_rows)
        self.lay_out()
        self.bytes_of_shared = self.work_bytes + bytes_held(plan)[self.held]  # of a launch

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.plan.geometry.alignment // self.plan.line

    @property
    def least_rows(self) -> int:
        """Rows of the smallest tile."""
        return tile_shape(self.plan.dtype, self.panel, self.panel).down

    @property
    def staging(self) -> int:
        """Where the memory of the products begins, in numbers."""
        return 2 * self.rows * self.stride

    @property
    def work_bytes(self) -> int:
        """What the kernels work in: rows that stay, then staging or the tile of a result."""
        shape = tile_shape(self.plan.dtype, self.rows, self.panel)
        staged = 2 * (self.rows * left_stride(shape) + DEPTH * self.panel)
        tile = max(self.rows, self.panel) * (self.panel + 1)
        square = 4 * DEPTH * self.panel
        numbers = max(self.staging + max(staged, self.rows * self.panel), tile, square)
        return -(-max(numbers * self.item, SHORTEST_SHARED) // 256) * 256

    # The propagation pass.

    def lay_out(self) -> None:
        plan = self.plan
        chain = [plan.order, *plan.propagation]
        nears = self.near_of(chain)
        kernels = [self.kernel_of(*pair) for pair in zip(chain, nears, strict=True)]
        row_tiles = -(-plan.segment_rows // self.rows)
        passes: list[tuple[Phase, int, int, int]] = []  # phase, steps, blocks
        if self.is_fused:
            groups = [(0, len(chain))]
        else:
            groups = [(0, 2), *[(i, i + 1) for i in range(2, len(chain))]]
        for begin, end in groups:
            distinct = list(dict.fromkeys(kernels[begin:end]))
            shares = self.shares_of(chain[begin])
            for i in range(begin, end):
                # Rows that stay go from one buffer to the other with every step.
                source, target = i % 2 * self.half, (i + 1) % 2 * self.half
                number = distinct.index(kernels[i])
                self.steps.append((chain[i], number, source, target, shares))
            phase = Phase("propagate", tuple(distinct), self.rows)
            passes.append((phase, begin, end, row_tiles * shares))
        tail = self.tail_of_batch()
        if plan.way == "resident":
            self.batch = [self.resident_launch([p for p, *_ in passes], tail, row_tiles)]
            return
        for segment in range(self.segments):
            for phase, begin, end, grid in passes:
                self.batch.append(Launch(self.entry(phase), grid, begin, end))
            if plan.reduce_loss:
                self.batch.append(Launch(self.entry(self.sums_phase()), self.sums_grid))
            if segment + 1 < self.segments:
                self.batch.append(Launch(self.entry(Phase("next_segment")), 1))
        self.batch += [Launch(self.entry(phase), grid) for phase, grid in tail]

    @property
    def half(self) -> int:
        """Numbers of one of the two buffers of rows."""
        return self.rows * self.stride

    def shares_of(self, step: Step) -> int:
        """How many blocks share the panels of the result of a step that is launched by itself."""
        if self.is_fused or step.kernel not in PRODUCTS:
            return 1
        return -(-self.tensor(step.tensors[0]).padded_columns // self.panel)

    def near_of(self, chain: list[Step]) -> list[tuple[bool, bool]]:
        """For each step whether it reads its rows from shared memory and leaves them there."""
        found, is_near = [], False
        following = [*chain[1:], None]
        for step, after in zip(chain, following, strict=True):
            reads = is_near and step.kernel in PRODUCTS
            target = "delta" if step.kernel.endswith("_loss") else None
            name = step.tensors[2] if target else step.tensors[0]
            fits = self.is_fused and self.tensor(name).columns <= self.plan.geometry.fused_columns
            goes_on = after is not None and after.kernel in PRODUCTS
            # The delta starts anew at the loss: outputs are read there from global memory.
            writes = fits and goes_on and step.kernel != "order_rows"
            found.append((reads, writes))
            is_near = writes
        return found

    def kernel_of(self, step: Step, near: tuple[bool, bool]) -> Kernel:
        """A step's kernel, specialised."""
        if step.kernel == "order_rows":
            return Kernel("order_rows")
        plan, law = self.plan, KERNELS[step.kernel].law
        function: Callable[..., Any] | None = None
        numbers: tuple[tuple[str, int], ...] = ()
        if law and step.law is not None:
            function = step.law.law
            numbers = (("setting_count", len(step.law.settings)),)
        precision = plan.geometry.precision if step.kernel in PRODUCTS else "float32"
        return Kernel(step.kernel, function, (self.rows, self.panel), near, numbers, precision)

    # The weight pass.

    def sums_phase(self) -> Phase:
        """The phase that sums a segment's losses and, if there is a weight pass, gradients."""
        plan = self.plan
        if not plan.tiles:
            return Phase("sum_losses", (Kernel("reduce_loss"),))
        square = (self.panel, self.panel)
        kernels = [
            Kernel("reduce_loss"),
            Kernel("dense_weight_gradient", None, square, precision=plan.geometry.precision),
            Kernel("dense_bias_gradient", None, square),
        ]
        if plan.begin:
            optimizer = self.optimizer
            kernels.append(
                Kernel(
                    "begin_step",
                    optimizer.begin,
                    numbers=(
                        ("setting_count", len(optimizer.settings)),
                        ("coefficient_count", optimizer.coefficient_count),
                        ("carry_count", len(optimizer.carry)),
                    ),
                )
            )
        return Phase("gradients", tuple(kernels))

    @property
    def sums_grid(self) -> int:
        """Blocks of that phase."""
        return len(self.plan.tiles) * self.plan.shares + 1

    @property
    def optimizer(self) -> Optimizer:
        """Of a training plan."""
        assert self.plan.begin is not None
        optimizer: Optimizer = self.plan.begin.law
        return optimizer

    def tail_of_batch(self) -> list[tuple[Phase, int]]:
        """The phases after the last segment, and their blocks."""
        plan, tiles = self.plan, len(self.plan.tiles)
        square = (self.panel, self.panel)
        if not tiles:
            return [(Phase("advance"), 1)]
        finish = tuple(
            Kernel("finish_gradient", None, square, numbers=(("is_weight", n),)) for n in (1, 0)
        )
        if plan.begin is None:
            return [(Phase("finish", finish), tiles), (Phase("advance"), 1)]
        optimizer = self.optimizer
        numbers = (
            ("slot_count", len(optimizer.slots)),
            ("coefficient_count", optimizer.coefficient_count),
        )
        update = (
            Kernel("update_parameters", optimizer.update, square, numbers=numbers),
            Kernel("transpose_weight", None, square),
        )
        reduce_tiles = (Kernel("reduce_tiles"),)
        if plan.clip_norm is None:
            tail = [(Phase("change", finish + update), tiles), (Phase("add_up", reduce_tiles), 1)]
        else:
            tail = [
                (Phase("finish", finish), tiles),
                (Phase("clip", reduce_tiles), 1),
                (Phase("update", update), tiles),
                (Phase("add_up"), 1),
            ]
        return tail + self.rounds()

    def rounds(self) -> list[tuple[Phase, int]]:
        """What follows the updates of a batch that is fine, which is known when it is added up."""
        square = (self.panel, self.panel)
        return [
            (Phase(PHASES[kernel], (Kernel(kernel, None, square),)), rows)
            for kernel, rows in rows_of_rounds(self.plan).items()
            if rows
        ]

    # Launches.

    def entry(self, phase: Phase) -> Entry:
        """A phase launched by itself, within the registers of half a multiprocessor.

        Gradients in float64, with the optimizer's law beside them, would spill a few.
        """
        spills = phase.name == "gradients" and self.plan.dtype == "float64"
        return Entry(self.plan.dtype, (phase,), blocks=1 if spills else BLOCKS_HELD)

    def resident_launch(
        self, passes: list[Phase], tail: list[tuple[Phase, int]], row_tiles: int
    ) -> Launch:
        """All phases in one launch: of one block for few tiles of rows, else of some that meet."""
        phases = (*passes, self.sums_phase(), *[phase for phase, _ in tail])
        is_single = row_tiles <= SINGLE_TILES
        for held, nbytes in bytes_held(self.plan).items():
            if self.work_bytes + nbytes <= self.shared_limit and (
                is_single or held != "everything"
            ):
                self.held = held  # the last one that fits
        entry = Entry(self.plan.dtype, phases, resident=True, single=is_single, held=self.held)
        grid = 1 if is_single else max(row_tiles, self.sums_grid)
        return Launch(entry, grid, cooperative=not is_single)

    def tensor(self, name: str) -> Tensor:
        """A tensor of the plan."""
        return next(tensor for tensor in self.plan.tensors if tensor.name == name)
