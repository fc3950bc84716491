"""The CUDA backend's kernels that leave gradients, norms and transposed copies, against NumPy."""

import numpy as np
import pytest
from cuda_kernels import Gpu, chain, checked, normal, spans, whole_parts
from kernels import Absent, close, dtypes, generator

from fastbp.backends.contract import Scalar


def shares_of_rows(rows, shares):
    """Which rows of a segment each share has; the last ones may have none."""
    each = whole_parts(-(-rows // shares))
    return [slice(min(i * each, rows), min((i + 1) * each, rows)) for i in range(shares)]


def sums_over_rows(inputs, delta, before, shares, dtype):
    """What each copy of the gradient holds after a segment."""
    return [
        chain(inputs[rows].T, delta[rows], dtype) + start
        for rows, start in zip(shares_of_rows(len(inputs), shares), before, strict=True)
    ]


# (tile, (rows of the segment, of its buffers), features, units, shares, segments)
CASES = [
    ((16, 64), (1, 1), 1, 1, 3, 1),
    ((64, 64), (17, 18), 65, 67, 1, 1),
    ((16, 64), (33, 33), 40, 5, 2, 2),
    ((32, 64), (31, 31), 63, 3, 2, 1),
    ((32, 32), (16, 17), 33, 34, 1, 2),
    ((32, 32), (50, 50), 7, 32, 3, 2),
]
OF_FLOAT64 = [((16, 32), (5, 6), 47, 31, 1, 1)]
GRADIENTS = [
    *((dtype, case) for dtype in ("float32", "float64") for case in CASES),
    *(("float64", case) for case in OF_FLOAT64),
]


def weight_gradient(dtype, case, **options):
    """The rows beyond those of the segment hold NaN."""
    tile, (n, height), features, units, shares, segments = case
    gpu = Gpu(dtype, tile, **options)
    rng = generator(3, features, units)
    gradient = gpu.matrix(features, units, copies=shares)
    expected = [np.zeros((features, units), dtype)] * shares
    for segment in range(segments):
        A, D = normal(rng, dtype, height, features), normal(rng, dtype, height, units)
        A[n:] = D[n:] = np.nan
        tensors = {
            "gradient": gradient,
            "tile_norm": Absent(),
            "tile_penalty": Absent(),
            "parameter": gpu.matrix(features, units),
            "penalties": Absent(),
            "inputs": gpu.matrix(height, features, A),
            "delta": gpu.matrix(height, units, D),
            "scalars": gpu.scalars(),
            "batch": gpu.batch(ROWS=n, BEGINS=int(segment == 0), ENDS=int(segment == segments - 1)),
        }
        expected = sums_over_rows(A[:n], D[:n], expected, shares, dtype)
        for panel, row, first, last in spans(features, units, tile[1], tile[0]):
            for share in range(shares):
                part, sizes = (share, shares), (tile[0], 0)
                before = gpu.call("dense_weight_gradient", tensors, sizes, first, last, part=part)
                for copy in range(shares):
                    changed = gradient.changed(before["gradient"], copy)
                    if copy == share:
                        mine = slice(panel * tile[1], (panel + 1) * tile[1])
                        changed[row : row + last - first, mine] = False
                    assert not changed.any()
    for copy in range(shares):
        assert np.array_equal(gradient.read(copy)[:, :units], expected[copy])
        assert gradient.padding_is_zero(copy=copy)


@pytest.mark.parametrize(("dtype", "case"), GRADIENTS, ids=str)
def test_dense_weight_gradient(dtype, case):
    weight_gradient(dtype, case)


@checked
@pytest.mark.parametrize(
    ("dtype", "case"),
    [
        ("float32", ((32, 32), (19, 20), 37, 5, 2, 2)),
        ("float64", ((16, 32), (17, 17), 18, 3, 1, 1)),
    ],
    ids=["float32", "float64"],
)
def test_dense_weight_gradient_in_every_order(dtype, case, options):
    weight_gradient(dtype, case, **options)


def bias_gradient(dtype, tile, units, n, shares, **options):
    """Two segments; the panels in two runs where there are several."""
    gpu = Gpu(dtype, tile, **options)
    rng = generator(3, units)
    gradient = gpu.matrix(1, units, copies=shares)
    expected = np.zeros((shares, units))
    panels = -(-units // tile[1])
    for segment in range(2):
        D = normal(rng, dtype, n + 2, units)
        D[n:] = np.nan
        tensors = {
            "gradient": gradient,
            "tile_norm": Absent(),
            "tile_penalty": Absent(),
            "delta": gpu.matrix(n + 2, units, D),
            "scalars": gpu.scalars(),
            "batch": gpu.batch(ROWS=n, BEGINS=int(segment == 0), ENDS=segment),
        }
        for share, rows in enumerate(shares_of_rows(n, shares)):
            expected[share] += D[rows].astype(float).sum(axis=0)
            for first, last in {(0, panels - panels // 2), (panels - panels // 2, panels)}:
                part = (share, shares)
                before = gpu.call("dense_bias_gradient", tensors, (9, 0), first, last, part=part)
                for copy in range(shares):
                    changed = gradient.changed(before["gradient"], copy)[0]
                    if copy == share:
                        changed[first * tile[1] : last * tile[1]] = False
                    assert not changed.any()
    for copy in range(shares):
        close(gradient.read(copy)[0, :units], expected[copy], dtype)
        assert gradient.padding_is_zero(copy=copy)


@dtypes
@pytest.mark.parametrize(
    ("tile", "units", "n", "shares"),
    [
        ((16, 64), 1, 1, 2),
        ((16, 64), 63, 3, 1),
        ((16, 64), 65, 33, 2),
        ((32, 32), 5, 40, 3),
        ((32, 32), 97, 16, 1),
    ],
    ids=str,
)
def test_dense_bias_gradient(tile, units, n, shares, dtype):
    bias_gradient(dtype, tile, units, n, shares)


@checked
def test_dense_bias_gradient_in_every_order(options):
    bias_gradient("float32", (32, 32), 97, 19, 2, **options)


def finish(dtype, tile, features, units, shares, rates, **options):
    """Copies added up, scaled, penalties, and what each tile leaves for reduce_tiles."""
    gpu, first_tile, scale = Gpu(dtype, tile, **options), 2, 0.25
    rng = generator(7, features, units)
    G = normal(rng, dtype, shares, features, units)
    W = normal(rng, dtype, features, units)
    W[0, 0] = 0.0
    runs = list(spans(features, units, tile[1], tile[0]))
    l1, l2 = rates or (0.0, 0.0)
    tensors = {
        "gradient": gpu.matrix(features, units, G, copies=shares),
        "tile_norm": gpu.unwritten(1, len(runs) + 3, "float64"),
        "tile_penalty": gpu.unwritten(1, len(runs) + 3, "float64"),
        "parameter": gpu.matrix(features, units, W),
        "penalties": gpu.data(rates, "float64") if rates else Absent(),
        "inputs": gpu.matrix(1, features),
        "delta": gpu.matrix(1, units),
        "scalars": gpu.scalars(GRADIENT_SCALE=scale),
        "batch": gpu.batch(ROWS=1, ENDS=1),
    }
    gradient, sizes = tensors["gradient"], (tile[0], first_tile)
    finishing = {"part": (0, shares), "contract": "dense_weight_gradient", "is_weight": True}
    for panel, row, first, last in runs:
        before = gpu.call("finish_gradient", tensors, sizes, first, last, **finishing)
        changed = gradient.changed(before["gradient"])
        changed[row : row + last - first, panel * tile[1] : (panel + 1) * tile[1]] = False
        assert not changed.any()
    W, expected = W.astype(float), scale * G.astype(float).sum(axis=0)
    expected += l2 * W + l1 * np.sign(W)
    close(gradient.matrix, expected, dtype)
    assert gradient.padding_is_zero()
    for copy in range(1, shares):
        assert np.array_equal(gradient.read(copy)[:, :units], G[copy])
    norms, sums = (tensors[key].matrix[0] for key in ("tile_norm", "tile_penalty"))
    assert np.isnan([norms[[0, 1, -1]], sums[[0, 1, -1]]]).all()
    for tile_number, (panel, row, first, last) in enumerate(runs, first_tile):
        part = np.s_[row : row + last - first, panel * tile[1] : (panel + 1) * tile[1]]
        penalty = 0.5 * l2 * (W[part] ** 2).sum() + l1 * np.abs(W[part]).sum()
        close(norms[tile_number], (expected[part] ** 2).sum(), dtype)
        close(sums[tile_number], penalty, dtype)


@dtypes
@pytest.mark.parametrize(
    ("tile", "features", "units", "shares", "rates"),
    [
        ((16, 64), 1, 1, 1, None),
        ((16, 64), 40, 65, 3, (0.3, 0.7)),
        ((64, 64), 65, 3, 2, (0.0, 0.0)),
        ((32, 32), 33, 33, 2, (0.0, 0.7)),
        ((32, 32), 32, 5, 1, (0.3, 0.0)),
    ],
    ids=str,
)
def test_finish_gradient_of_a_weight(tile, features, units, shares, rates, dtype):
    finish(dtype, tile, features, units, shares, rates)


@checked
def test_finish_gradient_in_every_order(options):
    finish("float32", (32, 32), 35, 33, 2, (0.3, 0.7), **options)


@dtypes
@pytest.mark.parametrize("units", [1, 33, 97])
def test_finish_gradient_of_a_bias(units, dtype):
    """Two panels a tile; norms may not be wanted, and there are no penalties."""
    gpu, shares, tile_rows = Gpu(dtype, (32, 32)), 2, 2
    G = normal(generator(6), dtype, shares, 1, units)
    panels = -(-units // 32)
    for wanted in (True, False):
        sums = [gpu.unwritten(1, 5, "float64") if wanted else Absent() for _ in range(2)]
        tensors = {
            "gradient": gpu.matrix(1, units, G, copies=shares),
            "tile_norm": sums[0],
            "tile_penalty": sums[1],
            "delta": gpu.matrix(1, units),
            "scalars": gpu.scalars(GRADIENT_SCALE=0.5),
            "batch": gpu.batch(ROWS=1, ENDS=1),
        }
        expected = 0.5 * G.astype(float).sum(axis=0)[0]
        finishing = {"part": (0, shares), "contract": "dense_bias_gradient", "is_weight": False}
        for first in range(0, panels, tile_rows):
            last, sizes = min(first + tile_rows, panels), (tile_rows, 1)
            gpu.call("finish_gradient", tensors, sizes, first, last, **finishing)
            if wanted:
                norm = (expected[32 * first : 32 * last] ** 2).sum()
                close(sums[0].matrix[0, 1 + first // tile_rows], norm, dtype)
                assert sums[1].matrix[0, 1 + first // tile_rows] == 0.0
        close(tensors["gradient"].matrix[0], expected, dtype)
        assert tensors["gradient"].padding_is_zero()


@dtypes
@pytest.mark.parametrize("tiles", [1, 3, 257, 600])
def test_reduce_tiles(tiles, dtype):
    """Numbers beyond the tiles are not read."""
    gpu = Gpu(dtype, uninitialised="raise")
    rng = generator(9, tiles)
    norms, penalties = rng.uniform(size=(2, tiles + 1))
    norms[tiles] = penalties[tiles] = np.nan
    tensors = {
        "scalars": gpu.scalars(LOSS=1.0, STEP=3.0),
        "tile_norm": gpu.data(norms, "float64"),
        "tile_penalty": gpu.data(penalties, "float64"),
    }
    gpu.call("reduce_tiles", tensors, (tiles,))
    found = tensors["scalars"].matrix[0]
    assert found[Scalar.NORM] == pytest.approx(np.sqrt(norms[:tiles].sum()), rel=1e-14)
    assert found[Scalar.LOSS] == pytest.approx(1.0 + penalties[:tiles].sum(), rel=1e-14)
    assert found[Scalar.STEP] == 3.0
    assert np.count_nonzero(found) == 3


def transpose(dtype, tile, features, units, **options):
    gpu = Gpu(dtype, tile, **options)
    W = normal(generator(9), dtype, features, units)
    tensors = {
        "transposed": gpu.matrix(units, features, np.full((units, features), np.nan)),
        "parameter": gpu.matrix(features, units, W),
    }
    transposed = tensors["transposed"]
    for panel, row, first, last in spans(features, units, tile[1], tile[0]):
        before = gpu.call("transpose_weight", tensors, (units,), first, last)
        changed = transposed.changed(before["transposed"])
        changed[panel * tile[1] : (panel + 1) * tile[1], row : row + last - first] = False
        assert not changed.any()
    assert np.array_equal(transposed.matrix, W.T)
    assert transposed.padding_is_zero()


@dtypes
@pytest.mark.parametrize(
    ("tile", "features", "units"),
    [
        ((16, 64), 1, 1),
        ((16, 64), 40, 65),
        ((32, 64), 67, 5),
        ((64, 64), 64, 64),
        ((32, 32), 33, 70),
        ((32, 32), 70, 31),
    ],
    ids=str,
)
def test_transpose_weight(tile, features, units, dtype):
    transpose(dtype, tile, features, units)


@checked
def test_transpose_weight_in_every_order(options):
    transpose("float32", (32, 32), 35, 37, **options)
