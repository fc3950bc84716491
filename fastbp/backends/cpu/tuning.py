"""All numbers that tune the CPU backend, each with the measurement that chose it.

``python -m benchmarks.tuning`` and the scripts of ``benchmarks/lab`` repeat the measurements; their
tables are in docs/tuning.md. No number here but `lane_rows` changes a single bit of a result.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from fastbp.backends.cpu.processor import processor_features
from fastbp.plan import Geometry

__all__ = [
    "BLOCK_ROWS",
    "DEPTH_BLOCK",
    "FEW_LINES",
    "FEW_ROWS",
    "GEOMETRY",
    "GRADIENT_DEPTH",
    "LANE_TILES",
    "PANEL_LINES",
    "PARALLEL_MULTIPLY_ADDS",
    "TILE_SHAPES",
    "TileShape",
    "tile_shape",
]

# Lines of 64 bytes that a row of a panel has: as many as the widest register tile.
PANEL_LINES = 4


class TileShape(NamedTuple):
    """A register tile: accumulators of `height` rows x `vectors` vectors of `vector_bytes`.

    It serves panels whose rows are so many `lines`.
    """

    vector_bytes: int
    vectors: int
    height: int
    lines: int


# For panels of 1, 2, 3 and 4 lines. A tile of h rows by v vectors loads h + v times for h v
# multiply-adds of each depth, so wide tiles with 24 accumulators need the fewest loads: 6 x 4 and
# 8 x 3 reach 92 to 97% of the peak, 12 x 2 83 to 88%, 8 x 2 78 to 83% (python -m
# benchmarks.lab.tiles). AVX2 has 16 registers: 12 accumulators, two vectors, one broadcast. NEON
# has 32 registers of 128 bits: 24 accumulators.
TILE_SHAPES = {
    "avx512": (
        TileShape(64, 1, 12, 1),
        TileShape(64, 2, 12, 2),
        TileShape(64, 3, 8, 3),
        TileShape(64, 4, 6, 4),
    ),
    "avx2": tuple(TileShape(32, 2, 6, lines) for lines in range(1, PANEL_LINES + 1)),
    "neon": tuple(TileShape(16, 4, 6, lines) for lines in range(1, PANEL_LINES + 1)),
}


# Sums over rows that lie in lanes: features x units of a tile, a line of partial sums for each.
# 6 x 4 loads 10 lines for 24 multiply-adds (79% of the peak; 4 x 4: 70%).
LANE_TILES = {"avx512": (6, 4), "avx2": (2, 2), "neon": (2, 2)}


def tile_shape(lines: int) -> TileShape:
    """The shape for panels of some lines on this host, or by the name in FASTBP_TILE_SHAPE."""
    return TILE_SHAPES[tile_family()][lines - 1]


def tile_family() -> str:
    """The kind of registers: that of this host, or the one that FASTBP_TILE_SHAPE names."""
    forced = os.environ.get("FASTBP_TILE_SHAPE")
    if forced:
        return forced
    return family_of(processor_features())


@functools.cache
def family_of(features: str) -> str:
    """The kind of registers that go with LLVM's list of features."""
    enabled = set(features.split(","))
    if "+avx512f" in enabled:
        return "avx512"
    return "avx2" if {"+avx", "+avx2"} & enabled else "neon"


# Depth that the products of the propagation pass go through at a time, for all columns: 256 to 1024
# make no difference for layers of 784 inputs, and 1024 is 2% faster than 512 for 2048.
DEPTH_BLOCK = 1024

# Rows of the batch that the gradient of a weight is summed over at a time: 64 rows of a panel of
# inputs and of one of deltas, and the gradient itself, are 48 KiB of first-level cache. 32 to 96
# are alike, 128 is 5% and 256 10% slower (actor, mnist_mlp, wide).
GRADIENT_DEPTH = 64

# Rows that a propagation kernel finishes while they are in the first-level cache.
BLOCK_ROWS = 64

# A single row goes through a layer without register tiles, and so do this many, one by one, if that
# is no more than so many multiply-adds of a line. 10-32-1 takes 0.50 us a step instead of 0.68 with
# 2 rows and 0.60 instead of 0.74 with 3; 4 rows are no faster, and 2 rows of 256-256 are slower.
FEW_ROWS, FEW_LINES = 3, 256

# 64 bytes: a cache line, and the width of an AVX-512 vector. Blocks of 128 rows divide the usual
# batches and leave no few rows over (100 rows, the batch of higgs, are 5% slower in blocks of 64).
# Parameters of more than a mebibyte do not stay in the second-level cache, so that blocks of 128
# rows would fetch them again and again: wide is 8% faster in blocks of 512. Narrow networks gain
# from rows in lanes from 128 rows on (1.1 to 2.2 times as fast; 0.9 with 32 or 64 rows).
GEOMETRY = Geometry(
    alignment=64,
    panel_lines=PANEL_LINES,
    row_block=128,
    far_row_block=512,
    tile_elements=2048,
    segment_rows=1024,
    near_bytes=1 << 20,
    lane_rows=128,
)

# A step may run on several threads when its multiply-adds reach this number. The two meetings of a
# step cost one to two microseconds, and what one core wrote comes slowly to another.
PARALLEL_MULTIPLY_ADDS = 500_000
