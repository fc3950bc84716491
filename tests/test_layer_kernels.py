"""The kernels of dropout, layer normalisation and residual blocks, as tests/test_kernels.py does it."""

import numpy as np
import pytest
import reference_layers as reference
from kernels import (
    Absent,
    Tensor,
    batch_tensor,
    call,
    close,
    dtypes,
    generator,
    rows_untouched,
    vector,
)

from fastbp import masks

# (rows, columns): one, primes, the edges of lines, of panels and of the rows that go together.
SHAPES = [
    (1, 1),
    (2, 3),
    (3, 64),
    (4, 15),
    (5, 33),
    (7, 127),
    (8, 16),
    (9, 17),
    (12, 63),
    (13, 65),
    (31, 48),
    (33, 300),
    (64, 31),
    (67, 32),
    (130, 7),
    (140, 130),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
FAR = 2**33 - 5  # a position whose upper word changes within a segment


def some_rows(rows):
    """A part of them, as a worker gets it."""
    return (0, rows) if rows < 5 else (2, rows - 1)


def check_rows(tensor, before, expected, first, last, dtype):
    """What a kernel wrote: right in its rows, zero in their padding, nothing elsewhere."""
    close(tensor.matrix[first:last], expected[first:last], dtype)
    assert tensor.padding_is_zero(first, last)
    assert rows_untouched(tensor, before, first, last)


@dtypes
@shapes
@pytest.mark.parametrize("rate", [0.25, 0.9])
@pytest.mark.parametrize("position", [0, 1000, FAR])
def test_dropout_forward(shape, dtype, rate, position):
    n, columns = shape
    X = generator(1, *shape).normal(size=shape)
    first, last = some_rows(n)
    seed, epoch, layer = 2**40 + 7, 5, 3
    tensors = {
        "output": Tensor(n, columns, dtype),
        "derivative": Tensor(n, columns, dtype),
        "inputs": Tensor(n, columns, dtype, X),
        "keys": vector(masks.epoch_keys(seed, epoch), "int64"),
        "batch": batch_tensor(POSITION=position),
        "settings": vector(1 / (1 - rate), dtype),
    }
    sizes = (columns, layer, masks.threshold_of(rate))
    before = call("dropout_forward", dtype, tensors, sizes, first, last)
    mask = reference.kept(seed, epoch, layer, range(position, position + n), columns, rate)
    slopes = mask / (1 - rate)
    check_rows(tensors["derivative"], before["derivative"], slopes, first, last, dtype)
    check_rows(tensors["output"], before["output"], slopes * X, first, last, dtype)
    dropped = tensors["output"].matrix[first:last] == 0
    assert np.array_equal(dropped, ~mask[first:last])


@dtypes
@pytest.mark.parametrize("rate", [1e-12, 1 - 1e-12])
def test_dropout_at_the_ends_of_its_rates(rate, dtype):
    n, columns = 6, 70
    tensors = {
        "output": Tensor(n, columns, dtype),
        "derivative": Tensor(n, columns, dtype),
        "inputs": Tensor(n, columns, dtype, np.ones((n, columns))),
        "keys": vector(masks.epoch_keys(1, 2), "int64"),
        "batch": batch_tensor(),
        "settings": vector(1.0, dtype),
    }
    call("dropout_forward", dtype, tensors, (columns, 0, masks.threshold_of(rate)), 0, n)
    assert (tensors["output"].matrix == float(rate < 0.5)).all()


@dtypes
def test_dropout_hides_no_nan(dtype):
    X = np.ones((3, 20))
    X[1] = np.nan
    tensors = {
        "output": Tensor(3, 20, dtype),
        "derivative": Tensor(3, 20, dtype),
        "inputs": Tensor(3, 20, dtype, X),
        "keys": vector(masks.epoch_keys(1, 2), "int64"),
        "batch": batch_tensor(),
        "settings": vector(2.0, dtype),
    }
    call("dropout_forward", dtype, tensors, (20, 0, masks.threshold_of(0.5)), 0, 3)
    assert np.isnan(tensors["output"].matrix[1]).all()
    assert np.isfinite(tensors["derivative"].matrix).all()


def test_the_mask_function_is_the_references():
    """In the interpreter, as the laws of `fastbp.masks` are written."""
    seed, epoch, rate = 123456789012345678901, 2**33 + 1, 0.3
    keys = [int(key) for key in masks.epoch_keys(seed, epoch)]
    positions = [0, 1, 7, FAR, 2**32]
    words = [
        [masks.mask_word(j, masks.row_key(position, 2, keys)) for j in range(9)]
        for position in positions
    ]
    found = np.array(words) >= masks.threshold_of(rate)
    expected = reference.kept(seed % 2**64, epoch, 2, positions, 9, rate)
    assert np.array_equal(found, expected)
    assert found.any()
    assert not found.all()


@dtypes
@shapes
@pytest.mark.parametrize("replace", [0, 1])
def test_multiply_delta(shape, dtype, replace):
    n, columns = shape
    rng = generator(2, *shape)
    slopes, delta = rng.normal(size=shape), rng.normal(size=shape)
    first, last = some_rows(n)
    tensors = {
        "input_delta": Tensor(n, columns, dtype, None if replace else slopes),
        "delta": Tensor(n, columns, dtype, delta),
    }
    before = call("multiply_delta", dtype, tensors, (columns, replace), first, last)
    expected = delta if replace else slopes * delta
    check_rows(tensors["input_delta"], before["input_delta"], expected, first, last, dtype)


@dtypes
@shapes
@pytest.mark.parametrize("derivative", [False, True])
def test_residual_forward(shape, dtype, derivative):
    n, columns = shape
    rng = generator(3, *shape)
    X, branch = rng.normal(size=shape), rng.normal(size=shape)
    first, last = some_rows(n)
    tensors = {
        "output": Tensor(n, columns, dtype),
        "derivative": Tensor(n, columns, dtype) if derivative else Absent(),
        "inputs": Tensor(n, columns, dtype, X),
        "branch": Tensor(n, columns, dtype, branch),
    }
    before = call("residual_forward", dtype, tensors, (columns,), first, last)
    check_rows(tensors["output"], before["output"], X + branch, first, last, dtype)
    if derivative:
        ones = np.ones(shape)
        check_rows(tensors["derivative"], before["derivative"], ones, first, last, dtype)


@dtypes
@shapes
@pytest.mark.parametrize("replace", [0, 1])
def test_residual_backward(shape, dtype, replace):
    n, columns = shape
    slopes, delta, branch = generator(4, *shape).normal(size=(3, *shape))
    first, last = some_rows(n)
    tensors = {
        "input_delta": Tensor(n, columns, dtype, None if replace else slopes),
        "delta": Tensor(n, columns, dtype, delta),
        "branch_delta": Tensor(n, columns, dtype, branch),
    }
    before = call("residual_backward", dtype, tensors, (columns, replace), first, last)
    expected = (1 if replace else slopes) * (delta + branch)
    check_rows(tensors["input_delta"], before["input_delta"], expected, first, last, dtype)


def normalized_by_hand(X, epsilon):
    centred = X - X.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon)
    return centred * scale, scale


def norm_tensors(X, gain, bias, dtype, epsilon, derivative=True, kept=True):
    n, features = X.shape
    return {
        "output": Tensor(n, features, dtype),
        "derivative": Tensor(n, features, dtype) if derivative else Absent(),
        "normalized": Tensor(n, features, dtype) if kept else Absent(),
        "scale": Tensor(1, n, dtype) if kept else Absent(),
        "inputs": Tensor(n, features, dtype, X),
        "gain": vector(gain, dtype),
        "bias": vector(bias, dtype),
        "settings": vector(epsilon, dtype),
    }


@dtypes
@shapes
@pytest.mark.parametrize(
    ("derivative", "kept"), [(False, False), (True, False), (True, True), (False, True)]
)
def test_layer_norm_forward(shape, dtype, derivative, kept):
    n, features = shape
    rng = generator(5, *shape)
    X = rng.normal(size=shape) * 3 + rng.normal(size=(n, 1))
    gain, bias = rng.normal(size=features), rng.normal(size=features)
    epsilon = 0.01
    tensors = norm_tensors(X, gain, bias, dtype, epsilon, derivative, kept)
    first, last = some_rows(n)
    before = call("layer_norm_forward", dtype, tensors, (features,), first, last)
    exact = tensors["inputs"].matrix.astype(float)
    normalized, scale = normalized_by_hand(exact, float(tensors["settings"].matrix[0, 0]))
    expected = gain * normalized + bias
    check_rows(tensors["output"], before["output"], expected, first, last, dtype)
    if derivative:
        ones = np.ones(shape)
        check_rows(tensors["derivative"], before["derivative"], ones, first, last, dtype)
    if kept:
        check_rows(tensors["normalized"], before["normalized"], normalized, first, last, dtype)
        found = tensors["scale"].matrix[0]
        close(found[first:last], scale[first:last, 0], dtype)
        assert np.isnan(np.delete(found, range(first, last))).all()


@dtypes
@shapes
@pytest.mark.parametrize(
    ("replace", "back", "parameters"), [(0, True, True), (1, True, False), (0, False, True)]
)
def test_layer_norm_backward(shape, dtype, replace, back, parameters):
    n, features = shape
    slopes, delta, X = generator(6, *shape).normal(size=(3, *shape))
    gain = generator(7, *shape).normal(size=features)
    normalized, scale = normalized_by_hand(X, 0.01)
    first, last = some_rows(n)
    old = None if replace else slopes
    tensors = {
        "input_delta": Tensor(n, features, dtype, old) if back else Absent(),
        "gain_delta": Tensor(n, features, dtype) if parameters else Absent(),
        "delta": Tensor(n, features, dtype, delta),
        "normalized": Tensor(n, features, dtype, normalized),
        "scale": vector(scale[:, 0], dtype),
        "gain": vector(gain, dtype),
    }
    before = call("layer_norm_backward", dtype, tensors, (features, replace), first, last)
    _, go_back = reference.layer_norm((0.01,), (gain, np.zeros(features)), X, None)
    if back:
        expected = go_back(delta)[0] * (1 if replace else slopes)
        check_rows(tensors["input_delta"], before["input_delta"], expected, first, last, dtype)
    if parameters:
        expected = delta * normalized
        check_rows(tensors["gain_delta"], before["gain_delta"], expected, first, last, dtype)


@pytest.mark.parametrize(
    ("dtype", "mean", "bound"),
    [
        ("float32", 1e4, 1e-6),
        ("float32", -1e6, 1e-6),
        ("float64", 1e12, 1e-14),
        ("float32", 0.0, 1e-6),
    ],
)
@pytest.mark.parametrize("features", [3, 64, 100, 1000])
def test_a_large_common_mean_costs_no_digits(dtype, mean, bound, features):
    """Against long doubles, for the numbers that the matrix holds, less what they share."""
    X = generator(8, features).normal(size=(9, features)) + mean
    tensors = norm_tensors(X, np.ones(features), np.zeros(features), dtype, 1e-5)
    call("layer_norm_forward", dtype, tensors, (features,), 0, 9)
    epsilon = np.longdouble(tensors["settings"].matrix[0, 0])
    exact, scale = normalized_by_hand(
        tensors["inputs"].matrix.astype(np.longdouble) - mean, epsilon
    )
    largest = np.abs(exact).max()
    assert np.abs(tensors["normalized"].matrix - exact).max() < bound * largest
    assert np.abs(tensors["scale"].matrix[0] / scale[:, 0] - 1).max() < bound


@dtypes
@pytest.mark.parametrize("value", [0.0, 1e-30, 3.7, -1e6, 1e15])
@pytest.mark.parametrize("features", [1, 3, 64, 77])
def test_rows_of_equal_values_stay_finite(dtype, value, features):
    """They leave the bias, but for what rounding makes of huge ones."""
    bias = generator(9).normal(size=features)
    X = np.full((9, features), value)
    tensors = norm_tensors(X, np.ones(features), bias, dtype, 1e-5)
    call("layer_norm_forward", dtype, tensors, (features,), 0, 9)
    assert np.isfinite(tensors["output"].matrix).all()
    if abs(value) < 10:
        close(tensors["output"].matrix, np.tile(bias, (9, 1)), dtype)


@dtypes
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_layer_norm_hides_no_nan(dtype, poison):
    """Nor does a row reach another one."""
    X = generator(10).normal(size=(20, 40))
    X[13, 5] = poison
    tensors = norm_tensors(X, np.ones(40), np.zeros(40), dtype, 1e-5)
    call("layer_norm_forward", dtype, tensors, (40,), 0, 20)
    finite = np.isfinite(tensors["output"].matrix)
    assert not finite[13].any()
    assert np.delete(finite, 13, axis=0).all()
