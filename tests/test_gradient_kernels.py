"""The kernels of the weight pass that leave gradients, norms and transposed copies, against NumPy."""

import numpy as np
import pytest
from kernels import (
    Absent,
    Tensor,
    batch_tensor,
    call,
    close,
    dtypes,
    generator,
    panel_columns,
    scalars_tensor,
    shapes,
    vector,
)

from fastbp.backends.contract import Scalar


def panel_spans(rows, columns, dtype, height):
    """Runs of at most `height` rows of each panel: (first, last) counted through the panels."""
    panel = panel_columns(dtype)
    for number in range(-(-columns // panel)):
        for row in range(0, rows, height):
            first = number * rows + row
            yield number * panel, row, first, first + min(height, rows - row)


@dtypes
@shapes
@pytest.mark.parametrize("segments", [1, 3])
def test_dense_weight_and_bias_gradient(shape, segments, dtype):
    """The segment may have fewer rows than its buffers; the rows beyond hold NaN.

    Tiles are a panel of the inputs high, or half of one.
    """
    n, features, units = shape
    rng = generator(3, *shape)
    capacity, panel = n + 3, panel_columns(dtype)
    gradient, bias_gradient = Tensor(features, units, dtype), Tensor(1, units, dtype)
    expected, expected_bias = np.zeros((features, units)), np.zeros(units)
    for segment in range(segments):
        A, D = rng.normal(size=(n, features)), rng.normal(size=(n, units))
        beyond = np.full((3, 1), np.nan)
        inputs = Tensor(capacity, features, dtype, np.vstack([A, beyond.repeat(features, 1)]))
        delta = Tensor(capacity, units, dtype, np.vstack([D, beyond.repeat(units, 1)]))
        ends = segment == segments - 1
        common = {
            "tile_norm": Absent(),
            "tile_penalty": Absent(),
            "delta": delta,
            "scalars": scalars_tensor(GRADIENT_SCALE=0.25),
            "batch": batch_tensor(ROWS=n, BEGINS=int(segment == 0), ENDS=int(ends)),
        }
        expected += A.T @ D
        expected_bias += D.sum(axis=0)
        tensors = {"gradient": gradient, "inputs": inputs, **common}
        tensors["parameter"] = Tensor(features, units, dtype)
        tensors["penalties"] = Absent()
        height = panel if segments == 1 else panel // 2
        for _, row, first, last in panel_spans(features, units, dtype, height):
            before = call("dense_weight_gradient", dtype, tensors, (height, 0), first, last)
            changed = gradient.whole != before["gradient"]
            changed &= ~(np.isnan(gradient.whole) & np.isnan(before["gradient"]))
            rows = np.r_[0:row, row + last - first : features]
            assert not gradient.read(changed)[rows].any()
        tensors = {"gradient": bias_gradient, **common}
        call("dense_bias_gradient", dtype, tensors, (9, 0), 0, -(-units // panel))
    close(gradient.matrix, 0.25 * expected, dtype)
    close(bias_gradient.matrix[0], 0.25 * expected_bias, dtype)
    assert gradient.padding_is_zero(0, features)
    assert bias_gradient.padding_is_zero(0, 1)


@dtypes
@pytest.mark.parametrize("units", [1, 5, 16, 63, 65])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_penalties_norms_and_their_reduction(l1, l2, units, dtype):
    """The end of the gradient kernels: penalties, and what each tile leaves for reduce_tiles."""
    n, features, first_tile = 6, 70, 2
    rng = generator(7)
    A, D = rng.normal(size=(n, features)), rng.normal(size=(n, units))
    W = rng.normal(size=(features, units))
    W[0, 0] = 0.0
    panel = panel_columns(dtype)
    spans = list(panel_spans(features, units, dtype, panel))
    tensors = {
        "gradient": Tensor(features, units, dtype),
        "tile_norm": Tensor(1, len(spans) + 4, "float64"),
        "tile_penalty": Tensor(1, len(spans) + 4, "float64"),
        "parameter": Tensor(features, units, dtype, W),
        "penalties": vector([l1, l2], "float64"),
        "inputs": Tensor(n, features, dtype, A),
        "delta": Tensor(n, units, dtype, D),
        "scalars": scalars_tensor(GRADIENT_SCALE=0.5),
        "batch": batch_tensor(ROWS=n, BEGINS=1, ENDS=1),
    }
    for _, _, first, last in spans:
        call("dense_weight_gradient", dtype, tensors, (panel, first_tile), first, last)
    expected = 0.5 * A.T @ D + l2 * W + l1 * np.sign(W)
    close(tensors["gradient"].matrix, expected, dtype)
    norms, sums = tensors["tile_norm"].matrix[0], tensors["tile_penalty"].matrix[0]
    assert np.isnan(norms[[0, 1, -2, -1]]).all()
    for tile, (column, row, first, last) in enumerate(spans):
        part = np.s_[row : row + last - first, column : column + panel]
        penalty = 0.5 * l2 * (W[part] ** 2).sum() + l1 * np.abs(W[part]).sum()
        close(norms[first_tile + tile], (expected[part] ** 2).sum(), dtype)
        close(sums[first_tile + tile], penalty, dtype)
    bias = {key: tensors[key] for key in ("tile_norm", "tile_penalty", "delta", "scalars", "batch")}
    bias["gradient"] = Tensor(1, units, dtype)
    call("dense_bias_gradient", dtype, bias, (9, first_tile + len(spans)), 0, -(-units // panel))
    close(norms[-2], ((0.5 * D.sum(axis=0)) ** 2).sum(), dtype)
    assert sums[-2] == 0.0
    tensors = {
        "scalars": scalars_tensor(LOSS=1.0),
        "tile_norm": vector([3.0, 6.0, 16.0], "float64"),
        "tile_penalty": vector([0.5, 0.25, 0.0], "float64"),
    }
    call("reduce_tiles", dtype, tensors, (3,), 0, 0)
    assert tensors["scalars"].matrix[0, Scalar.NORM] == 5.0
    assert tensors["scalars"].matrix[0, Scalar.LOSS] == 1.75


@dtypes
@pytest.mark.parametrize(("features", "units"), [(1, 1), (16, 16), (33, 40), (70, 5), (64, 64)])
def test_transpose_weight(features, units, dtype):
    W = generator(9).normal(size=(features, units))
    panel = panel_columns(dtype)
    tensors = {
        "transposed": Tensor(units, features, dtype),
        "parameter": Tensor(features, units, dtype, W),
    }
    for _, _, first, last in panel_spans(features, units, dtype, panel):
        call("transpose_weight", dtype, tensors, (units,), first, last)
    assert np.array_equal(tensors["transposed"].matrix, W.T.astype(dtype))
    assert tensors["transposed"].padding_is_zero(0, units)
