"""All numbers that tune the CPU backend, each with the measurement that chose it.

``python -m benchmarks.tuning`` and the scripts of ``benchmarks/lab`` repeat the measurements; their
tables are in docs/tuning.md. No number here changes a single bit of a result.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fastbp.backends.cpu.processor import processor_features
from fastbp.plan import Geometry

__all__ = [
    "BLOCK_ROWS",
    "DEPTH_BLOCK",
    "GEOMETRY",
    "PARALLEL_MULTIPLY_ADDS",
    "TILE_SHAPES",
    "TileShape",
    "tile_shape",
]


class TileShape(NamedTuple):
    """A register tile: accumulators of `height` rows x `vectors` vectors of `vector_bytes`."""

    vector_bytes: int
    vectors: int
    height: int


# 8 x 2 vectors are 16 accumulators: twice what two units of four cycles' latency need. Each
# depth loads 8 + 2 values for its 16 multiply-adds, so the two load ports keep up, and 8 divides
# the usual batches and widths. AVX2 has 16 registers: 12 accumulators, two vectors, one broadcast.
# NEON has 32 registers of 128 bits: 24 accumulators.
TILE_SHAPES = {
    "avx512": TileShape(64, 2, 8),
    "avx2": TileShape(32, 2, 6),
    "neon": TileShape(16, 4, 6),
}


def tile_shape() -> TileShape:
    """The shape for this host, or the one that FASTBP_TILE_SHAPE names."""
    forced = os.environ.get("FASTBP_TILE_SHAPE")
    if forced:
        return TILE_SHAPES[forced]
    enabled = set(processor_features().split(","))
    if "+avx512f" in enabled:
        return TILE_SHAPES["avx512"]
    return TILE_SHAPES["avx2" if {"+avx", "+avx2"} & enabled else "neon"]


# Depth that a product goes through at a time: 256 rows of a panel are 32 KiB, which stay in a
# first-level cache of 48 KiB. An undivided panel of depth 2048 comes from the second-level cache
# for every tile, which costs a tenth of the speed or more (python -m benchmarks.lab.tiles).
DEPTH_BLOCK = 256

# Rows that a propagation kernel finishes while they are in the first-level cache.
BLOCK_ROWS = 64

# 64 bytes: a cache line, and the width of an AVX-512 vector; a panel is two of them wide. Blocks of
# 128 rows divide the usual batches and leave no few rows over (100 rows, the batch of higgs, are 5%
# slower in blocks of 64). Tiles of 2,048 parameters keep parameters and slots of a tile in the
# first-level cache. Parameters and slots of more than a mebibyte do not stay in the second-level
# cache from step to step, so that a tile's are asked for ahead.
GEOMETRY = Geometry(
    alignment=64, row_block=128, tile_elements=2048, segment_rows=1024, near_bytes=1 << 20
)

# A step may run on several threads when its multiply-adds reach this number. The two meetings of a
# step cost one to two microseconds, and what one core wrote comes slowly to another.
PARALLEL_MULTIPLY_ADDS = 500_000
