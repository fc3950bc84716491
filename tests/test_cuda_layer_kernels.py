"""The CUDA kernels of dropout, layer normalisation and residual blocks, in the simulator."""

import numpy as np
import pytest
from cuda_kernels import Absent, Gpu, normal

from fastbp import masks
from fastbp.backends.contract import Batch

TILES = [(32, 32), (64, 64)]
# Columns: one, the edges of panels, several panels; rows of the segment and those of a block.
WIDTHS = [1, 31, 32, 33, 64, 65, 130]
SPANS = [(5, 0, 5), (40, 8, 39)]
FAR = 2**33 - 5

tiles = pytest.mark.parametrize("tile", TILES, ids=str)
widths = pytest.mark.parametrize("columns", WIDTHS)
spans = pytest.mark.parametrize("span", SPANS, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
BOUND = {"float32": 1e-5, "float64": 1e-13}


def check(tensor, before, expected, span, dtype=None):
    """Right in its rows (to the bit, without a dtype), zero in their padding, the rest untouched."""
    height, first, last = span
    beyond = [row for row in range(height) if not first <= row < last]
    assert not tensor.changed(before)[beyond].any()
    assert tensor.padding_is_zero(slice(first, last))
    found = tensor.matrix[first:last]
    if dtype is None:
        assert np.array_equal(found, expected[first:last])
    else:
        scale = max(1.0, np.abs(expected).max())
        assert np.abs(found - expected[first:last]).max() <= BOUND[dtype] * scale


@dtypes
@tiles
@widths
@spans
@pytest.mark.parametrize("position", [0, FAR])
def test_dropout_has_the_mask_of_the_law(position, span, columns, tile, dtype):
    height, first, last = span
    gpu = Gpu(dtype, tile)
    X = normal(np.random.default_rng(columns), dtype, height, columns)
    keys = masks.epoch_keys(11, 3)
    batch = np.zeros(int(Batch.COUNT), dtype=np.int64)
    batch[Batch.POSITION] = position
    scale = np.dtype(dtype).type(1 / 0.7)
    tensors = {
        "output": gpu.matrix(height, columns),
        "derivative": gpu.matrix(height, columns),
        "inputs": gpu.matrix(height, columns, X),
        "keys": gpu.data(keys, "int64"),
        "batch": gpu.data(batch, "int64"),
        "settings": gpu.data(scale),
    }
    threshold = masks.threshold_of(0.3)
    before = gpu.call("dropout_forward", tensors, (columns, 2, threshold), first, last)
    key = [int(word) for word in keys]
    kept = np.array(
        [
            [
                masks.mask_word(j, masks.row_key(position + i, 2, key)) >= threshold
                for j in range(columns)
            ]
            for i in range(height)
        ]
    )
    slopes = np.where(kept, scale, 0).astype(dtype)
    check(tensors["derivative"], before["derivative"], slopes, span)
    check(tensors["output"], before["output"], X * slopes, span)


@dtypes
@tiles
@widths
@spans
@pytest.mark.parametrize("replace", [0, 1])
def test_deltas_are_multiplied_or_filled(replace, span, columns, tile, dtype):
    height, first, last = span
    rng = np.random.default_rng(columns)
    slopes, delta, branch = (normal(rng, dtype, height, columns) for _ in range(3))
    for name, result in (("multiply_delta", delta), ("residual_backward", delta + branch)):
        gpu = Gpu(dtype, tile)
        tensors = {
            "input_delta": gpu.matrix(height, columns, None if replace else slopes),
            "delta": gpu.matrix(height, columns, delta),
        }
        if name == "residual_backward":
            tensors["branch_delta"] = gpu.matrix(height, columns, branch)
        before = gpu.call(name, tensors, (columns, replace), first, last)
        expected = result if replace else slopes * result
        check(tensors["input_delta"], before["input_delta"], expected, span)


@dtypes
@tiles
@widths
@spans
@pytest.mark.parametrize("has_derivative", [False, True])
def test_what_went_past_is_added(has_derivative, span, columns, tile, dtype):
    height, first, last = span
    gpu = Gpu(dtype, tile)
    rng = np.random.default_rng(columns)
    X, branch = (normal(rng, dtype, height, columns) for _ in range(2))
    tensors = {
        "output": gpu.matrix(height, columns),
        "derivative": gpu.matrix(height, columns) if has_derivative else Absent(),
        "inputs": gpu.matrix(height, columns, X),
        "branch": gpu.matrix(height, columns, branch),
    }
    before = gpu.call("residual_forward", tensors, (columns,), first, last)
    check(tensors["output"], before["output"], X + branch, span)
    if has_derivative:
        check(tensors["derivative"], before["derivative"], np.ones_like(X), span)


def normalised(X, epsilon):
    wide = X.astype(np.float64)
    apart = wide - wide.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((apart**2).mean(axis=1, keepdims=True) + epsilon)
    return apart * scale, scale


@dtypes
@tiles
@widths
@spans
@pytest.mark.parametrize("backward", [False, True])
def test_rows_are_normalised(backward, span, columns, tile, dtype):
    height, first, last = span
    gpu = Gpu(dtype, tile)
    rng = np.random.default_rng(columns)
    X, gain, bias = (normal(rng, dtype, n, columns) for n in (height, 1, 1))
    tensors = {
        "output": gpu.matrix(height, columns),
        "derivative": gpu.matrix(height, columns) if backward else Absent(),
        "normalized": gpu.matrix(height, columns) if backward else Absent(),
        "scale": gpu.matrix(1, height) if backward else Absent(),
        "inputs": gpu.matrix(height, columns, X),
        "gain": gpu.matrix(1, columns, gain),
        "bias": gpu.matrix(1, columns, bias),
        "settings": gpu.data(1e-2),
    }
    before = gpu.call("layer_norm_forward", tensors, (columns,), first, last)
    unit, scale = normalised(X, 1e-2)
    check(tensors["output"], before["output"], gain * unit + bias, span, dtype)
    if backward:
        check(tensors["normalized"], before["normalized"], unit, span, dtype)
        check(tensors["derivative"], before["derivative"], np.ones_like(X), span)
        found = tensors["scale"].matrix[0, first:last]
        assert np.abs(found / scale[first:last, 0] - 1).max() <= BOUND[dtype]


@pytest.mark.parametrize("shift", [1e4, -3e5])
def test_a_common_mean_costs_only_its_own_rounding(shift):
    """Two passes: the variance is that of what is left, not a difference of large squares."""
    gpu = Gpu("float32", (32, 32))
    X = (normal(np.random.default_rng(0), "float64", 9, 64) + shift).astype("float32")
    tensors = {
        "output": gpu.matrix(9, 64),
        "derivative": Absent(),
        "normalized": Absent(),
        "scale": Absent(),
        "inputs": gpu.matrix(9, 64, X),
        "gain": gpu.matrix(1, 64, np.ones((1, 64))),
        "bias": gpu.matrix(1, 64, np.zeros((1, 64))),
        "settings": gpu.data(1e-5),
    }
    gpu.call("layer_norm_forward", tensors, (64,), 0, 9)
    expected, _ = normalised(X, 1e-5)
    assert np.abs(tensors["output"].matrix - expected).max() < 8 * abs(shift) * 2**-24


@dtypes
@tiles
@widths
@spans
@pytest.mark.parametrize("replace", [0, 1])
@pytest.mark.parametrize("absent", ["", "input_delta", "gain_delta"])
def test_deltas_go_back_through_the_norm(absent, replace, span, columns, tile, dtype):
    height, first, last = span
    gpu = Gpu(dtype, tile)
    rng = np.random.default_rng(columns)
    slopes, delta, X, gain = (normal(rng, dtype, n, columns) for n in (height, height, height, 1))
    unit, scale = normalised(X, 1e-2)
    tensors = {
        "input_delta": gpu.matrix(height, columns, None if replace else slopes),
        "gain_delta": gpu.matrix(height, columns),
        "delta": gpu.matrix(height, columns, delta),
        "normalized": gpu.matrix(height, columns, unit),
        "scale": gpu.matrix(1, height, scale.T),
        "gain": gpu.matrix(1, columns, gain),
    }
    if absent:
        tensors[absent] = Absent()
    before = gpu.call("layer_norm_backward", tensors, (columns, replace), first, last)
    d = delta.astype(np.float64) * gain
    along = (d * unit).mean(axis=1, keepdims=True)
    change = scale * (d - d.mean(axis=1, keepdims=True) - unit * along)
    if absent != "input_delta":
        expected = change if replace else slopes * change
        check(tensors["input_delta"], before["input_delta"], expected, span, dtype)
    if absent != "gain_delta":
        check(tensors["gain_delta"], before["gain_delta"], delta * unit, span, dtype)
