"""All numbers that tune the CPU backend, each with the measurement that chose it.

Measured on one core of an AMD EPYC (Zen 4/5 server, AVX-512) with ``python -m benchmarks.tuning``;
the tables are in docs/tuning.md.
"""

from __future__ import annotations

from fastbp.plan import Geometry

__all__ = ["GEOMETRY", "PARALLEL_MULTIPLY_ADDS", "PRODUCT_COLUMNS", "PRODUCT_ROWS"]

# Shape of the product's accumulator tile, kept on the stack: 4 rows x 64 columns are 1 KiB of
# float32. Fewer columns lose to loop overhead, more rows to register pressure.
PRODUCT_ROWS = 4
PRODUCT_COLUMNS = 64

# 64 bytes: a cache line, and the width of an AVX-512 vector. Row blocks of 32 keep a block's
# activations of a few hundred units in the second-level cache and give two threads work from
# batches of 64 rows on. Tiles of 8,192 parameters keep gradient, slots and parameters of a tile
# (4 x 32 KiB for Adam) in the second-level cache.
GEOMETRY = Geometry(alignment=64, row_block=32, tile_elements=8192)

# A step runs under prange when its multiply-adds reach this number. Each of a step's two parallel
# regions costs about a microsecond (omp layer) to fork and join.
PARALLEL_MULTIPLY_ADDS = 500_000
