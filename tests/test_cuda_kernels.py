"""Every kernel of the CUDA backend's propagation pass on a simulated GPU, against NumPy.

Shapes are those at which kernels go wrong: 1, primes, and one less than, exactly and one more than
a tile. Products and laws are compared to the bit, with the chains that the contract promises.
"""

import numpy as np
import pytest
import reference
from cuda_kernels import (
    CHECKED,
    FAR,
    IN,
    NEAR,
    OUT,
    Gpu,
    chain,
    checked,
    layout,
    mapped,
    normal,
)
from kernels import Absent, close, dtypes, generator

import fastbp as fb
from fastbp import shuffle
from fastbp.activations import Activation

# (tile, near, features, units, (height, first, last), shares)
CASES = [
    ((16, 64), FAR, 1, 1, (1, 0, 1), 1),
    ((16, 64), NEAR, 17, 63, (15, 0, 15), 1),
    ((32, 64), OUT, 33, 65, (35, 3, 34), 1),
    ((64, 64), FAR, 65, 67, (64, 0, 64), 2),
    ((64, 64), IN, 64, 64, (66, 2, 65), 1),
    ((32, 32), FAR, 70, 33, (40, 0, 32), 3),
    ((32, 32), NEAR, 33, 70, (7, 5, 6), 1),
    ((64, 32), OUT, 13, 5, (61, 0, 61), 1),
    ((64, 32), IN, 31, 32, (64, 1, 63), 1),
]
OF_FLOAT64 = [((16, 32), NEAR, 16, 31, (17, 0, 16), 1), ((16, 32), FAR, 47, 34, (16, 1, 14), 1)]
PRODUCTS = [
    *((dtype, case) for dtype in ("float32", "float64") for case in CASES),
    *(("float64", case) for case in OF_FLOAT64),
]
products = pytest.mark.parametrize(("dtype", "case"), PRODUCTS, ids=str)
# Small, since finding races takes time.
SMALL = [("float32", ((32, 32), near, 17, 35, (21, 2, 19), 1)) for near in (FAR, NEAR, IN, OUT)] + [
    ("float64", ((16, 32), NEAR, 19, 18, (9, 1, 8), 1))
]
small = pytest.mark.parametrize(("dtype", "case"), SMALL, ids=str)


def forward(dtype, case, has_derivative=True, **options):
    tile, near, features, units, (height, first, last), shares = case
    gpu, law = Gpu(dtype, tile, **options), fb.LeakyRelu() if near == OUT else fb.Sigmoid()
    rng = generator(1, features, units)
    X, W, b = (normal(rng, dtype, *s) for s in ((height, features), (features, units), (units,)))
    if near[1]:  # infinity times the zeros beyond the units is NaN, and must not stay there
        X[first, 0] = np.inf
    beyond = [row for row in range(height) if not first <= row < last]
    tensors = {
        "output": gpu.matrix(height, units),
        "derivative": gpu.matrix(height, units) if has_derivative else Absent(),
        "inputs": gpu.matrix(height, features, X * np.nan if near[0] else X),
        "weight": gpu.matrix(features, units, W),
        "bias": gpu.matrix(1, units, b),
        "settings": gpu.data(law.settings or 0.0),
    }
    where = layout(gpu.shape, near, features, units)
    held = gpu.near_rows(where, X[first:last]) if near[0] else None
    sizes = (features, units, 0)
    for share in range(shares):
        before = gpu.call(
            "dense_forward",
            tensors,
            sizes,
            first,
            last,
            part=(share, shares),
            where=where,
            near=near,
            held=held,
            law=law.law,
            setting_count=len(law.settings),
        )
        for key in ("output", "derivative") if has_derivative else ("output",):
            assert not tensors[key].changed(before[key])[beyond].any()
            panel = np.arange(tensors[key].padded) // gpu.tile[1] % shares
            assert not tensors[key].changed(before[key])[:, panel != share].any()
    settings = tuple(gpu.real(value) for value in law.settings)
    value, slope = mapped(law.law, chain(X[first:last], W, dtype) + b, settings)
    for key, expected in {"output": value, "derivative": slope}.items():
        if not isinstance(tensors[key], Absent):
            assert np.array_equal(tensors[key].matrix[first:last], expected)
            assert tensors[key].padding_is_zero(slice(first, last))
    if near[1]:
        found = gpu.left_near(where, last - first, tensors["output"].padded)
        assert np.array_equal(found[:, :units], value)
        assert not found[:, units:].any()


def backward(dtype, case, replace, **options):
    tile, near, features, units, (height, first, last), shares = case
    features, units = units, features  # so that the same part of a case is the depth
    gpu = Gpu(dtype, tile, **options)
    rng = generator(2, features, units)
    D, W = normal(rng, dtype, height, units), normal(rng, dtype, units, features)
    slopes = normal(rng, dtype, height, features)
    whole = slice(0, None)
    if near[1]:
        D[first, 0] = np.inf
        whole = slice(1, None)  # the padding of its row, but not what lies beyond, becomes NaN
    beyond = [row for row in range(height) if not first <= row < last]
    tensors = {
        # For the inputs of a network there is no derivative to meet, nor to be read.
        "input_delta": gpu.matrix(height, features, None if replace else slopes),
        "delta": gpu.matrix(height, units, D * np.nan if near[0] else D),
        "transposed_weight": gpu.matrix(units, features, W),
    }
    where = layout(gpu.shape, near, units, features)
    held = gpu.near_rows(where, D[first:last]) if near[0] else None
    sizes = (features, units, replace)
    input_delta = tensors["input_delta"]
    for share in range(shares):
        before = gpu.call(
            "dense_backward_data",
            tensors,
            sizes,
            first,
            last,
            part=(share, shares),
            where=where,
            near=near,
            held=held,
        )
        changed = input_delta.changed(before["input_delta"])
        assert not changed[beyond].any()
        panel = np.arange(input_delta.padded) // gpu.tile[1] % shares
        assert not changed[:, panel != share].any()
    expected = chain(D[first:last], W, dtype)
    if not replace:
        expected = expected * slopes[first:last]
    assert np.array_equal(input_delta.matrix[first:last], expected)
    assert input_delta.padding_is_zero(np.arange(first, last)[whole])
    if near[1]:
        found = gpu.left_near(where, last - first, input_delta.padded)
        assert np.array_equal(found[:, :features], expected)
        assert not found[whole, features:].any()
        assert not found[:, input_delta.padded :].any()


@products
def test_dense_forward(dtype, case):
    forward(dtype, case, has_derivative=case[0] != (64, 64))


@small
@checked
def test_dense_forward_in_every_order(dtype, case, options):
    forward(dtype, case, **options)


@products
def test_dense_backward_data(dtype, case):
    backward(dtype, case, replace=int(case[0] == (16, 64) or case[1] == IN))


@small
@checked
def test_dense_backward_data_in_every_order(dtype, case, options):
    backward(dtype, case, replace=int(case[1] == NEAR), **options)


@dtypes
@pytest.mark.parametrize("replace", [0, 1])
def test_replace(replace, dtype):
    backward(dtype, ((32, 32), FAR, 5, 3, (3, 0, 3), 1), replace)


@dtypes
@pytest.mark.parametrize("name", Activation.names())
def test_every_activation_law(name, dtype):
    """Through the forward kernel, on numbers on both sides of every kink."""
    z = np.concatenate([np.linspace(-8, 8, 33), [-30.0, -3.5, 0.25, 6.5, 30.0]]).astype(dtype)
    units, law, gpu = len(z), Activation.resolve(name), Gpu(dtype, (16, 64))
    tensors = {
        "output": gpu.matrix(1, units),
        "derivative": gpu.matrix(1, units),
        "inputs": gpu.matrix(1, 1, [[1.0]]),
        "weight": gpu.matrix(1, units, z),
        "bias": gpu.matrix(1, units, 0 * z),
        "settings": gpu.data(law.settings or 0.0),
    }
    options = {"law": law.law, "setting_count": len(law.settings)}
    gpu.call("dense_forward", tensors, (1, units, 0), 0, 1, where=layout(gpu.shape, FAR), **options)
    exact = z.astype(float)
    close(tensors["output"].matrix[0], reference.ACTIVATIONS[name](exact), dtype)
    kinks = np.isin(exact, [-3.0, -1.0, 0.0, 1.0, 3.0, 6.0])
    slopes = reference.derivative(reference.ACTIVATIONS[name], exact)
    close(tensors["derivative"].matrix[0, ~kinks], slopes[~kinks], dtype)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("data_rows", "position", "first", "last"),
    [(1, 0, 0, 1), (23, 11, 2, 12), (64, 0, 0, 64), (700, 100, 16, 300)],
)
def test_order_rows(shuffled, data_rows, position, first, last):
    gpu = Gpu("float64", **CHECKED[2])
    keys, bits = shuffle.round_keys(3, 4), shuffle.index_bits(data_rows)
    tensors = {
        "row_index": gpu.unwritten(1, last + 3, "int64"),
        "keys": gpu.data(keys, "int64"),
        "batch": gpu.batch(
            POSITION=position, ROWS=last, DATA_ROWS=data_rows, SHUFFLE=int(shuffled), BITS=bits
        ),
    }
    before = gpu.call("order_rows", tensors, (), first, last)
    order = list(range(position + first, position + last))
    if shuffled:  # the law with Python's integers
        order = [shuffle.permute(i, data_rows, bits, keys.tolist()) for i in order]
    row_index = tensors["row_index"]
    assert row_index.matrix[0, first:last].tolist() == order
    assert not row_index.changed(before["row_index"])[0, np.r_[0:first, last : last + 3]].any()
    assert np.array_equal(tensors["batch"].snapshot(), before["batch"])


@dtypes
@pytest.mark.parametrize("tile", [(32, 32), (16, 64)], ids=str)
@pytest.mark.parametrize(
    ("features", "near", "shares"),
    [
        (1, OUT, 1),
        (7, FAR, 1),
        (31, OUT, 1),
        (32, FAR, 2),
        (33, OUT, 1),
        (64, OUT, 1),
        (130, FAR, 2),
        (67, OUT, 1),
    ],
)
def test_gather_store_and_cotangent(features, near, shares, tile, dtype):
    rows_of_batch(features, near, shares, tile, dtype)


@checked
@pytest.mark.parametrize("near", [FAR, OUT], ids=["far", "near"])
def test_gather_store_and_cotangent_in_every_order(near, options):
    rows_of_batch(37, near, 1, (32, 32), "float32", **options)


def rows_of_batch(columns, near, shares, tile, dtype, **options):
    """The kernels that move rows between the caller's arrays and those of the plan."""
    gpu = Gpu(dtype, tile, **options)
    data_rows, n, position, first, last = 23, 8, 11, 1, 7
    rng = generator(5, columns)
    X, S = normal(rng, dtype, data_rows, columns), normal(rng, dtype, n, columns)
    index = [3, 22, 0, 7, 7, 11, 2, 19]
    batch = gpu.batch(POSITION=position, ROWS=n, DATA_ROWS=data_rows)
    where = layout(gpu.shape, near, 0, columns)
    span = {"where": where, "near": near}
    beyond = np.r_[0:first, last:n]

    def call(name, tensors, key):
        for share in range(shares):
            part = (share, shares)
            before = gpu.call(name, tensors, (columns,), first, last, part=part, **span)
            changed = tensors[key].changed(before[key])
            panel = np.arange(tensors[key].padded) // tile[1] % shares
            assert not changed[:, panel != share].any()
            rows = beyond if key != "data_outputs" else np.r_[0:12, 18:data_rows]
            assert not changed[rows].any()

    def check_near(expected):
        if near[1]:
            found = gpu.left_near(where, last - first, gpu.matrix(1, columns).padded)
            assert np.array_equal(found[:, :columns], expected)
            assert not found[:, columns:].any()

    tensors = {
        "inputs": gpu.matrix(n, columns),
        "data_inputs": gpu.data(X),
        "row_index": gpu.data(index, "int64"),
        "batch": batch,
    }
    call("gather_inputs", tensors, "inputs")
    assert np.array_equal(tensors["inputs"].matrix[first:last], X[index[first:last]])
    assert tensors["inputs"].padding_is_zero(slice(first, last))
    check_near(X[index[first:last]])

    tensors = {"delta": gpu.matrix(n, columns, S), "data_cotangent": gpu.data(X), "batch": batch}
    call("multiply_cotangent", tensors, "delta")
    expected = (S * X[position : position + n])[first:last]
    assert np.array_equal(tensors["delta"].matrix[first:last], expected)
    assert tensors["delta"].padding_is_zero()
    check_near(expected)

    outputs = gpu.unwritten(data_rows, columns)
    tensors = {"data_outputs": outputs, "source": gpu.matrix(n, columns, S), "batch": batch}
    span = {}
    call("store_rows", tensors, "data_outputs")
    assert np.array_equal(outputs.matrix[position + first : position + last], S[first:last])
