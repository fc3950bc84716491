"""A few rows at a time give the bits of all rows at once, kernel by kernel.

A call on a single row, or on two or three, takes a way of its own through the kernels of the
propagation pass; more rows go through register tiles, thin sums and packed losses.
"""

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
    shapes,
    vector,
)
from strategies import make_targets

import fastbp as fb
from fastbp.losses import Loss

ELEMENTWISE = [name for name in Loss.names() if Loss.registry[name].law is not None]


def few_by_few(kernel, dtype, make, sizes, names, rows, law=None):
    """What calls on one row, on two and on three leave in the named tensors: that of one call."""
    together = make()
    call(kernel, dtype, together, sizes, 0, rows, law=law)
    for few in (3, 2, 1):
        apart = make()
        for i in reversed(range(0, rows, few)):
            call(kernel, dtype, apart, sizes, i, min(i + few, rows), law=law)
        for name in names:
            assert np.array_equal(together[name].whole, apart[name].whole), (name, few)
    return apart


@dtypes
@shapes
@pytest.mark.parametrize("thin", [0, 1])
def test_dense_forward(shape, thin, dtype):
    n, features, units = shape
    n = max(min(n, 9), 4)
    if thin:
        units = min(units, 64 // np.dtype(dtype).itemsize)
    rng = generator(21, *shape)
    X, W = rng.normal(size=(n, features)), rng.normal(size=(features, units))
    b = rng.normal(size=units)

    def make():
        weight = Tensor(units, features, dtype, W.T) if thin else Tensor(features, units, dtype, W)
        return {
            "output": Tensor(n, units, dtype),
            "derivative": Tensor(n, units, dtype),
            "inputs": Tensor(n, features, dtype, X),
            "weight": weight,
            "bias": vector(b, dtype),
            "settings": vector(0.0, dtype),
        }

    sizes, names = (features, units, thin), ("output", "derivative")
    law = fb.Sigmoid()  # leaves 0.5 where the sum is zero: padding must be cleared
    found = few_by_few("dense_forward", dtype, make, sizes, names, n, law)
    assert found["output"].padding_is_zero(0, n)
    assert found["derivative"].padding_is_zero(0, n)
    close(found["output"].matrix, 1 / (1 + np.exp(-(X @ W + b))), dtype)


@dtypes
@shapes
@pytest.mark.parametrize("replace", [0, 1])
def test_dense_backward_data(shape, replace, dtype):
    n, features, units = shape
    n = max(min(n, 9), 4)
    rng = generator(22, *shape)
    delta, W = rng.normal(size=(n, units)), rng.normal(size=(features, units))
    slopes = rng.normal(size=(n, features))

    def make():
        return {
            "input_delta": Tensor(n, features, dtype, None if replace else slopes),
            "delta": Tensor(n, units, dtype, delta),
            "transposed_weight": Tensor(units, features, dtype, W.T),
        }

    sizes, names = (features, units, replace), ("input_delta",)
    found = few_by_few("dense_backward_data", dtype, make, sizes, names, n)
    assert found["input_delta"].padding_is_zero(0, n)
    close(found["input_delta"].matrix, delta @ W.T * (1 if replace else slopes), dtype)


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 4, 5, 16, 17, 40, 64, 65])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_loss(name, outputs, weighted, dtype):
    """Up to four outputs are packed where there are several rows."""
    n, data_rows = 6, 9
    rng = generator(23, outputs)
    O, slopes = rng.normal(size=(n, outputs)), rng.normal(size=(n, outputs))
    y = make_targets(name, data_rows, outputs, rng)
    w = rng.uniform(0.1, 2.0, data_rows)
    index = rng.permutation(data_rows)[:n]
    w[index[1]] = 0.0
    O[1, 0] = np.nan if weighted else O[1, 0]  # of a row that counts nothing
    law = Loss.resolve(name)

    def make():
        weights = Tensor(data_rows, 1, dtype, w, padded=False) if weighted else Absent()
        return {
            "row_loss": vector(np.full(n, np.nan), dtype),
            "row_weight": vector(np.full(n, np.nan), dtype),
            "delta": Tensor(n, outputs, dtype, slopes),
            "output": Tensor(n, outputs, dtype, O),
            "data_targets": Tensor(data_rows, outputs, dtype, y, padded=False),
            "data_weights": weights,
            "row_index": vector([-1, -1, *index], "int64"),
            "batch": batch_tensor(POSITION=5, ORDER_BEGIN=3),
            "settings": vector(law.settings or 0.0, dtype),
        }

    names = ("row_loss", "row_weight", "delta")
    sizes = (outputs,)
    found = few_by_few("elementwise_loss", dtype, make, sizes, names, n, law)
    assert found["delta"].padding_is_zero(0, n)
    if weighted:
        assert not found["delta"].matrix[1].any()
        assert found["row_loss"].matrix[0, 1] == 0.0
