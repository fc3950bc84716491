"""A plan: what a network becomes for one batch size, dtype and purpose. Pure data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastbp.network import Network
from fastbp.text import table

__all__ = ["ITEM_BYTES", "Geometry", "Plan", "Round", "Slab", "Step", "Tensor", "Tile"]

ITEM_BYTES = {"float32": 4, "float64": 8, "int64": 8}


WAYS = {
    "resident": "one launch trains many batches",
    "fused": "the propagation pass is one kernel, its rows in shared memory through all layers",
    "layered": "a kernel for each step",
}


@dataclass(frozen=True)
class Geometry:
    """The numbers by which a backend shapes a plan.

    Attributes
    ----------
    alignment : int
        Bytes of a line; every tensor and every row of a panel starts at a multiple.
    panel_lines : int
        Lines of a row of a panel.
    row_block : int
        Rows of the batch that the propagation pass takes through all layers at a time.
    far_row_block : int
        The same where the parameters do not stay near: each block fetches them all.
    tile_elements : int
        Parameters that the weight pass takes through gradient and update at a time, about.
    segment_rows : int
        Rows of a batch that the slabs hold at a time; a larger batch comes in segments.
    near_bytes : int
        Parameters of so many bytes stay in a near cache from one block of rows to the next.
    lane_rows : int
        Batches of so many rows lie in lanes where that is less work; 0 for none. It settles the
        order of sums, and so the last bits of a result, which no other of these numbers does.
    blocks : int
        Blocks of threads that a pass is divided into, if it can be, on a device that runs a grid of
        them; 0 on a processor. A grid needs no weight turned, finishes all gradients before the
        updates, and cuts the rows that they are summed over into shares. The shares settle an
        order of sums too.
    share_rows : int
        Rows that a share has at least.
    fused_columns : int
        Networks no wider than this go through the propagation pass in one kernel.
    resident_multiply_adds : int
        Batches of so few multiply-adds are trained many in one launch.
    precision : str
        To which the factors of products are rounded: ``tf32`` or ``bf16``, on tensor cores, which
        only networks that no kernel fuses go through; ``float32`` stands for not at all.
    """

    alignment: int
    panel_lines: int
    row_block: int
    far_row_block: int
    tile_elements: int
    segment_rows: int
    near_bytes: int
    lane_rows: int
    blocks: int = 0
    share_rows: int = 0
    fused_columns: int = 0
    resident_multiply_adds: int = 0
    precision: str = "float32"

    @property
    def is_grid(self) -> bool:
        """Whether it is that of a device that runs grids of blocks of threads."""
        return self.blocks > 0


@dataclass(frozen=True)
class Slab:
    """One allocation: a name, a number kind (``real``, ``int64``, ``float64``) and a length."""

    name: str
    kind: str
    elements: int


@dataclass(frozen=True)
class Tensor:
    """A matrix inside a slab, in panels; `data` tensors lie in the caller's arrays, row by row.

    A panel holds some lines' worth of columns (fewer, where that is enough for the last columns) of
    all rows. Panels follow each other, so the panel that begins at column c begins at number
    ``offset + c * rows`` of the slab.
    """

    name: str
    slab: str
    rows: int
    columns: int
    padded_columns: int
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers of the slab it takes, padding included."""
        return self.rows * self.padded_columns


@dataclass(frozen=True)
class Step:
    """One kernel on some tensors; `law` is the settings object whose law is compiled in."""

    kernel: str
    tensors: tuple[str, ...]
    sizes: tuple[int, ...]
    law: Any = None


@dataclass(frozen=True)
class Tile:
    """Rows of one parameter tensor, and which of the plan's weight steps run on them.

    Steps ``gradient_begin <= i < gradient_end`` compute the gradient, steps
    ``gradient_end <= i < update_end`` change the parameters. Row r of panel p is counted as
    ``p * rows + r``.
    """

    parameter: str
    gradient_begin: int
    gradient_end: int
    update_end: int
    first_row: int
    last_row: int


@dataclass(frozen=True)
class Round:
    """What follows the update of all parameters, divided among workers that have met before.

    Attributes
    ----------
    steps : tuple of Step
    tiles : tuple of Tile
        Steps ``gradient_begin <= i < gradient_end`` of the round run on it.
    """

    steps: tuple[Step, ...]
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Plan:
    """Tables of slabs, tensors and steps. Printing a plan explains the whole computation.

    Attributes
    ----------
    purpose : str
        ``predict``, ``evaluate``, ``gradient``, ``input_gradient``, ``vjp`` or ``train``.
    batch_rows : int
        The most rows that a batch can have.
    segment_rows : int
        The most rows of a batch that are in the slabs at a time.
    turned : frozenset of str
        Weights that lie as (units, inputs), not (inputs, units).
    in_lanes : bool
        Whether the rows of the batch are columns of the matrices.
    order : Step
        Run before each segment: which row of the data is at which place.
    propagation : tuple of Step
        Run in order on every block of rows.
    reduce_loss : Step or None
        Run once a segment, after the propagation pass.
    begin : Step or None
        Run once a batch, before anything else.
    weight_steps, tiles
        The weight pass.
    reduce_tiles : Step or None
        Run once a batch, when all gradients are known.
    clip_norm : float or None
        With it, all gradients are computed before the first update.
    multiply_adds : int
        Of a full batch, about; what the choice between serial and parallel goes by.
    shares : int
        That the rows of a segment are cut into when gradients are summed.
    ema : float or None
        By what the weight of older parameters falls at each step, in their moving average.
    rounds : tuple of Round
        What follows the updates, one after the other.
    """

    network: Network
    purpose: str
    dtype: str
    batch_rows: int
    segment_rows: int
    geometry: Geometry
    slabs: tuple[Slab, ...]
    tensors: tuple[Tensor, ...]
    values: dict[str, tuple[float, ...]]
    turned: frozenset[str]
    in_lanes: bool
    order: Step
    propagation: tuple[Step, ...]
    reduce_loss: Step | None
    begin: Step | None
    weight_steps: tuple[Step, ...]
    tiles: tuple[Tile, ...]
    reduce_tiles: Step | None
    clip_norm: float | None
    multiply_adds: int
    shares: int = 1
    ema: float | None = None
    rounds: tuple[Round, ...] = ()

    @property
    def optimizer(self) -> Any:
        """Of a training plan; None for others."""
        return self.begin.law if self.begin else None

    @property
    def way(self) -> str:
        """How a grid of blocks runs a step: ``resident``, ``fused`` or ``layered``; else ``""``."""
        geometry = self.geometry
        if not geometry.is_grid:
            return ""
        if not self.network.runs_fused or max(self.network.widths) > geometry.fused_columns:
            return "layered"
        is_small = self.multiply_adds <= geometry.resident_multiply_adds
        # Such a launch has no turn for the segments of a batch.
        is_whole = self.batch_rows <= self.segment_rows
        return "resident" if self.purpose == "train" and is_small and is_whole else "fused"

    @property
    def row_block(self) -> int:
        """Rows that the propagation pass takes through all layers at a time."""
        size = self.network.parameter_count * ITEM_BYTES[self.dtype]
        near = size <= self.geometry.near_bytes
        rows = self.geometry.row_block if near else self.geometry.far_row_block
        return max(rows // self.row_unit, 1) * self.row_unit if self.in_lanes else rows

    @property
    def row_unit(self) -> int:
        """Rows that are not divided among workers: of a panel, where they lie in lanes."""
        return self.line * self.geometry.panel_lines if self.in_lanes else 2

    @property
    def line(self) -> int:
        """Numbers in a line."""
        return self.geometry.alignment // ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        precision = self.geometry.precision
        blocks = "" if self.geometry.is_grid else f" and blocks of {self.row_block}"
        lines = [
            f"{self.purpose} plan: {self.network}",
            f"dtype {self.dtype}, batches of up to {self.batch_rows} rows in segments of "
            f"{self.segment_rows}{blocks}, {self.multiply_adds:,} multiply-adds a batch",
            *([f"{self.way}: {WAYS[self.way]}"] if self.way else []),
            *([f"factors of products in {precision}"] if precision != "float32" else []),
            "",
            *table(
                ("tensor", "slab", "shape", "padded", "offset"),
                (
                    (t.name, t.slab, f"{t.rows} x {t.columns}", t.padded_columns, t.offset)
                    if t.slab != "data"
                    else (t.name, "the caller's", f"rows x {t.columns}", "", "")
                    for t in self.tensors
                ),
            ),
            "",
            "before each segment of a batch:",
            *steps_table([self.order]),
            "",
            "propagation pass, for each block of rows:",
            *steps_table(self.propagation),
        ]
        if self.reduce_loss:
            once = [step for step in (self.reduce_loss, self.begin) if step]
            lines += ["", "once a batch:", *steps_table(once)]
        if self.tiles:
            how = (
                "gradient and update in one go"
                if self.clip_norm is None
                else "all gradients, then their norm, then all updates"
            )
            lines += ["", f"weight pass, for each of {len(self.tiles)} tiles, {how}:"]
            lines += steps_table(self.weight_steps)
        if self.reduce_tiles:
            lines += ["", "once all gradients are known:", *steps_table([self.reduce_tiles])]
        for follow in self.rounds:
            lines += ["", f"then, for each of {len(follow.tiles)} tiles:"]
            lines += steps_table(follow.steps)
        return "\n".join(lines)


def steps_table(steps: Iterable[Step]) -> list[str]:
    return table(
        ("kernel", "law", "tensors", "sizes"),
        (
            (
                step.kernel,
                step.law.name if step.law is not None else "",
                ", ".join(step.tensors),
                ", ".join(map(str, step.sizes)),
            )
            for step in steps
        ),
    )
