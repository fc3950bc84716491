"""The matrix product in every shape of register tile, beside NumPy and beside each other.

The shapes of machines that are not at hand run here too: LLVM splits or emulates their vectors.
"""

import ctypes

import numpy as np
import pytest
from kernels import CANARY, GUARD

from fastbp.backends.cpu.machine_code import bind_product
from fastbp.backends.cpu.tuning import PANEL_LINES, TILE_SHAPES, tile_shape

INTEGER, POINTER = ctypes.c_int64, ctypes.c_void_p
ARGUMENTS = [POINTER, POINTER, INTEGER, POINTER] + [INTEGER] * 5 + [POINTER, INTEGER]


def aligned(elements, dtype, fill):
    """Memory on a line's boundary with canaries on either side."""
    raw = np.full(elements + 2 * GUARD + 64, CANARY, dtype=dtype)
    start = GUARD + (-(raw.ctypes.data + GUARD * raw.itemsize) % 64) // raw.itemsize
    view = raw[start : start + elements]
    view[:] = fill
    return raw, view


def multiply(shape, dtype, A, B, start, layout):
    """start + A @ B by the compiled product, with A laid out as the kernels have it."""
    (rows, depth), columns = A.shape, B.shape[1]
    line = 64 // np.dtype(dtype).itemsize
    width = -(-columns // line) * line
    panel = PANEL_LINES * line
    packed = np.zeros((depth, width), dtype)
    packed[:, :columns] = B
    _, b = aligned(depth * width, dtype, packed.ravel())
    initial = np.zeros((start.shape[0], width), dtype)
    initial[:, :columns] = start
    _, begin = aligned(initial.size, dtype, initial.ravel())
    raw, target = aligned(rows * width, dtype, np.nan)
    if layout == "rows in panels":  # forward: blocks of `panel` columns, row after row in each
        blocks = -(-depth // panel)
        whole = np.full((rows, blocks * panel), np.nan, dtype)
        whole[:, :depth] = A
        a = np.ascontiguousarray(whole.reshape(rows, blocks, panel).transpose(1, 0, 2))
        strides = (panel, 1, panel, rows * panel)
    else:  # weight gradient: A transposed
        a = np.ascontiguousarray(A.T)
        strides = (1, rows, depth, 0)
    tile = TILE_SHAPES[shape][width // line - 1]
    function = ctypes.CFUNCTYPE(None, *ARGUMENTS)(bind_product(dtype, tile))
    stride = width if start.shape[0] > 1 or rows == 1 else 0
    function(
        target.ctypes.data, begin.ctypes.data, stride, a.ctypes.data, *strides,
        rows, b.ctypes.data, depth,
    )  # fmt: skip
    first = (target.ctypes.data - raw.ctypes.data) // raw.itemsize
    outside = np.concatenate([raw[:first], raw[first + target.size :]])
    assert (outside == CANARY).all()
    return target.reshape(rows, width)[:, :columns].copy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["rows in panels", "transposed"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 23, 33])
def test_every_shape_of_tile(rows, layout, dtype):
    rng = np.random.default_rng([rows, len(layout)])
    line = 64 // np.dtype(dtype).itemsize
    panel = PANEL_LINES * line
    for depth in (1, 2, panel - 1, panel, panel + 1, 150):
        for columns in (1, line, line + 1, 3 * line - 1, panel):
            for start_rows in (1, rows):
                A = rng.normal(size=(rows, depth)).astype(dtype)
                B = rng.normal(size=(depth, columns)).astype(dtype)
                start = rng.normal(size=(start_rows, columns)).astype(dtype)
                expected = start.astype(float) + A.astype(float) @ B.astype(float)
                found = [multiply(shape, dtype, A, B, start, layout) for shape in TILE_SHAPES]
                bound = 4 * depth * np.finfo(dtype).eps
                assert np.abs(found[0] - expected).max() <= bound * max(1, np.abs(expected).max())
                for other in found[1:]:
                    assert np.array_equal(found[0], other)


def test_the_shape_follows_the_features_of_the_processor(monkeypatch):
    monkeypatch.delenv("FASTBP_TILE_SHAPE", raising=False)
    for features, shape in [
        ("+sse2,+avx,+avx2,+avx512f", "avx512"),
        ("+sse2,+avx,+avx2,-avx512f", "avx2"),
        ("+neon,+fp-armv8", "neon"),
    ]:
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        assert [tile_shape(lines) for lines in (1, 2, 3, 4)] == list(TILE_SHAPES[shape])
    monkeypatch.setenv("FASTBP_TILE_SHAPE", "avx2")
    assert tile_shape(4) == TILE_SHAPES["avx2"][3]
