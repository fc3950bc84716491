"""All numbers that tune the CUDA backend. None of them is measured on a GPU yet.

They follow from the sizes of the processors (132 multiprocessors, 256 KiB of registers and up to
227 KiB of shared memory each) and are to be replaced by measurements, one by one.
"""

from __future__ import annotations

from typing import NamedTuple

from fastbp.network import Network
from fastbp.plan import Geometry, Plan
from fastbp.plan.plan import ITEM_BYTES

__all__ = [
    "BLOCKS_HELD",
    "CONSTRAINED",
    "COPIED",
    "DEPTH",
    "SINGLE_TILES",
    "THREADS",
    "TileShape",
    "geometry",
    "row_tile",
    "tile_shape",
]

ALIGNMENT = 16  # bytes that a thread loads at a time

# Blocks that a pass should be divided into: about as many as there are multiprocessors. A constant,
# so that results do not depend on which GPU it is.
BLOCKS = 128

# Threads of every block: eight warps, two blocks of which fill the register file at 128 registers
# a thread.
THREADS = 256

# Blocks that a multiprocessor is to hold at a time: what one waits for, the other can hide.
BLOCKS_HELD = 2

# Depth of a product that is in shared memory at a time.
DEPTH = 16


class TileShape(NamedTuple):
    """How a block of threads divides a tile of rows x columns.

    Thread t has place ``t % across`` in a row of threads and ``t // across`` in a column of them,
    and `high` rows in `groups` vectors of columns.
    """

    rows: int
    columns: int
    vector: int  # numbers in 16 bytes
    across: int
    down: int
    high: int
    groups: int

    @property
    def wide(self) -> int:
        """Columns of a thread."""
        return self.groups * self.vector


def tile_shape(dtype: str, rows: int, columns: int) -> TileShape:
    """The division of a tile whose sides are powers of two."""
    vector = {"float32": 4, "float64": 2}[dtype]
    across = min(columns // vector, 16)
    down = THREADS // across
    if rows % down:
        raise ValueError(f"rows: expected a multiple of {down}; got {rows}")
    return TileShape(
        rows, columns, vector, across, down, rows // down, columns // (across * vector)
    )


# Networks no wider than this keep the rows of a block in shared memory: two buffers of 64 rows of
# float32 are 133 KB.
FUSED_COLUMNS = 256

# Rows of a batch that are in memory at a time.
FUSED_SEGMENT_ROWS, LAYERED_SEGMENT_ROWS = 65_536, 16_384

# Batches of so few multiply-adds take less time than the launches of their kernels.
RESIDENT_MULTIPLY_ADDS = 4_000_000

# Tiles of the rows of such a batch that one block takes by itself: to meet others takes longer.
SINGLE_TILES = 2

# Vectors of a thread that are on their way at a time where a block copies parameters: 32 KiB.
COPIED = 8

# Units whose weights one block holds to a norm: as many columns as a warp has threads, so that it
# reads whole rows of memory, and wide layers have enough blocks.
CONSTRAINED = 32

# Rows that a share of the sums of a gradient has at least: four parts of the depth.
SHARE_ROWS = 64


def panel_columns(network: Network, dtype: str) -> int:
    """Columns of a panel, and so of a tile of the products."""
    widest = max(network.widths)
    if widest <= 32:
        return 32
    return 128 if dtype == "float32" and widest > FUSED_COLUMNS else 64


def geometry(network: Network, dtype: str, precision: str = "float32") -> Geometry:
    """The shapes by which the plans of a network are laid out.

    Tensor cores have no kernel that keeps rows in shared memory, so that their way is layered.
    """
    panel = panel_columns(network, dtype)
    fused_columns = FUSED_COLUMNS if precision == "float32" else 0
    fused = network.runs_fused and max(network.widths) <= fused_columns
    return Geometry(
        alignment=ALIGNMENT,
        panel_lines=panel * ITEM_BYTES[dtype] // ALIGNMENT,
        row_block=panel,
        far_row_block=panel,
        tile_elements=panel * panel,
        segment_rows=FUSED_SEGMENT_ROWS if fused else LAYERED_SEGMENT_ROWS,
        near_bytes=0,
        lane_rows=0,
        blocks=BLOCKS,
        share_rows=SHARE_ROWS,
        fused_columns=fused_columns,
        resident_multiply_adds=RESIDENT_MULTIPLY_ADDS,
        precision=precision,
    )


def row_tile(plan: Plan) -> int:
    """Rows of a tile of the propagation pass: the most with which there are enough blocks."""
    panel = plan.geometry.panel_lines * plan.line
    down = tile_shape(plan.dtype, panel, panel).down
    most = 64 if plan.way != "layered" else panel
    rows, panels = down, 1
    if plan.way == "layered":
        panels = -(-max(plan.network.widths) // panel)
    while 2 * rows <= most and -(-plan.segment_rows // (2 * rows)) * panels >= BLOCKS:
        rows *= 2
    return rows
