"""Every kernel of the CPU backend against NumPy, at the shapes where kernels go wrong.

Outputs are poisoned with NaN before each call, so is all padding, canaries stand round every
tensor, and whatever the contract does not name as written must be unchanged to the bit.
"""

import numpy as np
import pytest
import reference
from kernels import (
    INTEGER_POISON,
    Absent,
    Tensor,
    batch_tensor,
    call,
    panel_columns,
    rows_untouched,
    scalars_tensor,
    vector,
)
from strategies import make_targets

import fastbp as fb
from fastbp import shuffle
from fastbp.activations import Activation
from fastbp.backends.contract import KERNELS, Batch, Scalar
from fastbp.backends.cpu import dense, loss, rows, update
from fastbp.backends.cpu.engine import FACTORIES
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer

# (rows, features, units): 1, primes, and tile - 1, tile, tile + 1 of register tiles (8 rows, 8, 16 or
# 32 columns) and of blocks of 64 rows.
SHAPES = [
    (1, 1, 1),
    (2, 3, 5),
    (3, 7, 2),
    (4, 4, 64),
    (5, 8, 65),
    (7, 13, 63),
    (8, 64, 16),
    (9, 65, 17),
    (31, 5, 31),
    (33, 63, 7),
    (6, 127, 129),
    (4, 128, 1),
    (1, 67, 70),
    (63, 32, 33),
    (64, 33, 32),
    (65, 16, 48),
    (130, 20, 8),
    (9, 300, 40),
    (3, 530, 5),
    (270, 6, 3),
]
DTYPES = ["float32", "float64"]
# Sums have up to 129 terms of size one; rounding grows like their number at worst.
BOUND = {"float32": 64 * 2**-23, "float64": 64 * 2**-52}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def close(found, expected, dtype):
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    assert np.all(np.isfinite(found))
    assert np.max(np.abs(found - expected), initial=0.0) <= BOUND[dtype] * scale


def generator(*key):
    return np.random.default_rng([*key])


def test_contract_and_backend_name_the_same_kernels():
    assert set(FACTORIES) == set(KERNELS)
    for module in (dense, loss, rows, update):
        for name in module.__all__:
            assert FACTORIES[name].__name__ == name


def test_the_contract_is_consistent():
    for name, contract in KERNELS.items():
        named = {*contract.writes, *contract.updates}
        assert named <= set(contract.tensors), name
        assert not set(contract.writes) & set(contract.updates), name


@dtypes
@shapes
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("thin", [0, 1])
def test_dense_forward(shape, dtype, derivative, thin):
    n, features, units = shape
    if thin:  # such a layer has at most one line of units
        units = min(units, panel_columns(dtype) // 2)
    rng = generator(1, *shape)
    X, W, b = (
        rng.normal(size=(n, features)),
        rng.normal(size=(features, units)),
        rng.normal(size=units),
    )
    first, last = (0, n) if n < 5 else (2, n - 1)
    weight = Tensor(units, features, dtype, W.T) if thin else Tensor(features, units, dtype, W)
    tensors = {
        "output": Tensor(n, units, dtype),
        "inputs": Tensor(n, features, dtype, X),
        "weight": weight,
        "bias": vector(b, dtype),
        "settings": vector(0.0, dtype),
    }
    tensors["derivative"] = Tensor(n, units, dtype) if derivative else Absent()
    sizes = (features, units, thin)
    # A sigmoid of padding is 0.5, and must not stay there.
    before = call("dense_forward", dtype, tensors, sizes, first, last, law=fb.Sigmoid())
    z = (X @ W + b)[first:last]
    expected = 1 / (1 + np.exp(-z))
    close(tensors["output"].matrix[first:last], expected, dtype)
    assert rows_untouched(tensors["output"], before["output"], first, last)
    assert tensors["output"].padding_is_zero(first, last)
    if derivative:
        close(tensors["derivative"].matrix[first:last], expected * (1 - expected), dtype)
        assert tensors["derivative"].padding_is_zero(first, last)
        assert rows_untouched(tensors["derivative"], before["derivative"], first, last)


@dtypes
@pytest.mark.parametrize("name", Activation.names())
def test_every_activation_law_compiled(name, dtype):
    """Through the forward kernel, on a grid that holds both sides of every kink."""
    z = np.concatenate([np.linspace(-8, 8, 129), [-30.0, -3.5, 0.25, 6.5, 30.0]])
    n = len(z)
    law = Activation.resolve(name)
    tensors = {
        "output": Tensor(n, 1, dtype),
        "derivative": Tensor(n, 1, dtype),
        "inputs": Tensor(n, 1, dtype, z),
        "weight": Tensor(1, 1, dtype, [[1.0]]),
        "bias": vector(0.0, dtype),
        "settings": vector(law.settings or 0.0, dtype),
    }
    call("dense_forward", dtype, tensors, (1, 1, 0), 0, n, law=law)
    exact = tensors["inputs"].matrix[:, 0].astype(float)
    close(tensors["output"].matrix[:, 0], reference.ACTIVATIONS[name](exact), dtype)
    kinks = np.isin(exact, [-3.0, -1.0, 0.0, 1.0, 3.0, 6.0])
    slopes = reference.derivative(reference.ACTIVATIONS[name], exact)
    close(tensors["derivative"].matrix[~kinks, 0], slopes[~kinks], dtype)


@dtypes
@shapes
def test_dense_backward_data(shape, dtype):
    n, features, units = shape
    rng = generator(2, *shape)
    delta, W = rng.normal(size=(n, units)), rng.normal(size=(features, units))
    slopes = rng.normal(size=(n, features))
    first, last = (0, n) if n < 5 else (1, n - 2)
    tensors = {
        "input_delta": Tensor(n, features, dtype, slopes),
        "delta": Tensor(n, units, dtype, delta),
        "transposed_weight": Tensor(units, features, dtype, W.T),
    }
    before = call("dense_backward_data", dtype, tensors, (features, units, 0), first, last)
    expected = slopes * (delta @ W.T)
    close(tensors["input_delta"].matrix[first:last], expected[first:last], dtype)
    assert rows_untouched(tensors["input_delta"], before["input_delta"], first, last)
    # For the inputs of a network there is no derivative to meet: NaN there must not matter.
    tensors["input_delta"] = Tensor(n, features, dtype)
    before = call("dense_backward_data", dtype, tensors, (features, units, 1), first, last)
    close(tensors["input_delta"].matrix[first:last], (delta @ W.T)[first:last], dtype)
    assert rows_untouched(tensors["input_delta"], before["input_delta"], first, last)
    assert tensors["input_delta"].padding_is_zero(first, last)


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
    """The segment may have fewer rows than its buffers; the rows beyond hold NaN."""
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
        for _, row, first, last in panel_spans(features, units, dtype, panel):
            before = call("dense_weight_gradient", dtype, tensors, (panel, 0), first, last)
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


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 17, 63, 64, 65])
@pytest.mark.parametrize("name", Loss.names())
def test_every_loss(name, outputs, weighted, dtype):
    n, data_rows = 9, 13
    rng = generator(4, outputs)
    O, slopes = rng.normal(size=(n, outputs)), rng.normal(size=(n, outputs))
    y = make_targets(name, data_rows, outputs, rng)
    w = rng.uniform(0.0, 2.0, data_rows)
    index = rng.permutation(data_rows)[:n]
    law = Loss.resolve(name)
    labels = y.ndim == 1
    tensors = {
        "row_loss": Tensor(1, n, dtype),
        "row_weight": Tensor(1, n, dtype),
        "delta": Tensor(n, outputs, dtype, slopes),
        "output": Tensor(n, outputs, dtype, O),
        "data_targets": Tensor(
            data_rows, 1 if labels else outputs, "int64" if labels else dtype, y, padded=False
        ),
        "data_weights": Tensor(data_rows, 1, dtype, w, padded=False) if weighted else Absent(),
        "row_index": vector([-1, -1, *index], "int64"),
        "batch": batch_tensor(POSITION=5, ORDER_BEGIN=3),
    }
    kernel = "cross_entropy_loss"
    if law.law is not None:
        kernel = "elementwise_loss"
        tensors["settings"] = vector(law.settings or 0.0, dtype)
    before = call(kernel, dtype, tensors, (outputs,), 1, 8, law=law)
    weight = w[index] if weighted else np.ones(n)
    O = tensors["output"].matrix.astype(float)
    expected = weight * reference.row_losses(name, O, y[index])
    slope = weight[:, None] * reference.output_derivative(name, O, y[index])
    close(tensors["row_loss"].matrix[0, 1:8], expected[1:8], dtype)
    close(tensors["row_weight"].matrix[0, 1:8], weight[1:8], dtype)
    close(tensors["delta"].matrix[1:8], (slopes * slope)[1:8], dtype)
    assert rows_untouched(tensors["delta"], before["delta"], 1, 8)
    untouched = np.r_[0:1, 8:n]
    assert np.isnan(tensors["row_loss"].matrix[0, untouched]).all()


@dtypes
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_reduce_loss(dtype, weight):
    losses, weights = np.array([1.0, 2.0, 4.0, np.nan]), np.full(4, weight)
    tensors = {
        "scalars": scalars_tensor(WEIGHTED_LOSS_SUM=10.0, WEIGHT_SUM=1.0),
        "row_loss": vector(losses * (weight > 0), dtype),
        "row_weight": vector(weights, dtype),
        "batch": batch_tensor(ROWS=2, BEGINS=1),
    }
    found = tensors["scalars"].matrix[0]
    call("reduce_loss", dtype, tensors, (), 0, 0)
    assert found[Scalar.LOSS] == found[Scalar.GRADIENT_SCALE] == 0.0  # known at the batch's end
    tensors["row_loss"] = vector(losses[2:] * (weight > 0), dtype)
    tensors["batch"] = batch_tensor(ROWS=1, ENDS=1)
    call("reduce_loss", dtype, tensors, (), 0, 0)
    total = 7.0 if weight else 0.0
    assert found[Scalar.WEIGHTED_LOSS_SUM] == 10.0 + total
    assert found[Scalar.WEIGHT_SUM] == 1.0 + 3 * weight
    # A batch of zero weights has loss 0 and gradient 0, not NaN.
    mean = total / (3 * weight) if weight else 0.0
    assert found[Scalar.LOSS] == pytest.approx(mean, rel=1e-15, abs=0)
    assert found[Scalar.GRADIENT_SCALE] == (1 / (3 * weight) if weight else 0.0)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("data_rows", "position"), [(1, 0), (23, 11), (64, 0), (200, 65), (1000, 0)]
)
def test_order_rows(shuffled, data_rows, position):
    keys = shuffle.round_keys(3, 4)
    bits = shuffle.index_bits(data_rows)
    capacity, n = 136, min(8, data_rows - position)
    tensors = {
        "row_index": Tensor(1, capacity, "int64"),
        "keys": vector(keys, "int64"),
        "batch": batch_tensor(
            POSITION=position, ROWS=n, DATA_ROWS=data_rows, SHUFFLE=int(shuffled), BITS=bits
        ),
    }
    call("order_rows", "float64", tensors, (), 0, 0)
    end = min(position + capacity, data_rows)
    order = list(range(position, end))
    if shuffled:  # the law in the interpreter, with Python's integers
        order = [shuffle.permute(i, data_rows, bits, keys.tolist()) for i in order]
    found = tensors["row_index"].matrix[0]
    assert found[: len(order)].tolist() == order
    assert (found[len(order) : capacity] == INTEGER_POISON).all()
    batch = tensors["batch"].matrix[0]
    assert (batch[Batch.ORDER_BEGIN], batch[Batch.ORDER_END]) == (position, end)
    # What is there already is not worked out again; what is beyond it is.
    found[:] = 7
    call("order_rows", "float64", tensors, (), 0, 0)
    assert (found == 7).all()
    batch[Batch.POSITION], batch[Batch.ROWS] = end - 1, 1
    batch[Batch.ORDER_END] = end - 1
    call("order_rows", "float64", tensors, (), 0, 0)
    assert found[0] == order[-1]


@dtypes
@pytest.mark.parametrize("features", [1, 7, 15, 16, 17, 63, 64, 65])
def test_gather_and_store(features, dtype):
    data_rows, n, position = 23, 6, 11
    X = generator(5).normal(size=(data_rows, features))
    index = [3, 22, 0, 7, 7, 11, 2, 19]
    batch = batch_tensor(POSITION=position, ROWS=n, DATA_ROWS=data_rows, ORDER_BEGIN=position - 2)
    tensors = {
        "inputs": Tensor(n, features, dtype),
        "data_inputs": Tensor(data_rows, features, dtype, X, padded=False),
        "row_index": vector(index, "int64"),
        "batch": batch,
    }
    before = call("gather_inputs", dtype, tensors, (features,), 1, 5)
    assert np.array_equal(tensors["inputs"].matrix[1:5], X[index[3:7]].astype(dtype))
    assert tensors["inputs"].padding_is_zero(1, 5)
    assert rows_untouched(tensors["inputs"], before["inputs"], 1, 5)

    outputs = Tensor(data_rows, features, dtype, padded=False)
    source = Tensor(n, features, dtype, X[:n])
    tensors = {"data_outputs": outputs, "source": source, "batch": batch}
    before = call("store_rows", dtype, tensors, (features,), 2, 5)
    assert np.array_equal(outputs.matrix[position + 2 : position + 5], X[2:5].astype(dtype))
    assert rows_untouched(outputs, before["data_outputs"], position + 2, position + 5)


@dtypes
@pytest.mark.parametrize("outputs", [1, 3, 15, 16, 17, 65])
def test_multiply_cotangent(outputs, dtype):
    rng = generator(6)
    slopes, v = rng.normal(size=(5, outputs)), rng.normal(size=(8, outputs))
    tensors = {
        "delta": Tensor(5, outputs, dtype, slopes),
        "data_cotangent": Tensor(8, outputs, dtype, v, padded=False),
        "batch": batch_tensor(POSITION=2),
    }
    before = call("multiply_cotangent", dtype, tensors, (outputs,), 1, 4)
    close(tensors["delta"].matrix[1:4], (slopes * v[2:7])[1:4], dtype)
    assert rows_untouched(tensors["delta"], before["delta"], 1, 4)


def test_the_reference_knows_every_registered_law():
    assert set(reference.ACTIVATIONS) == set(Activation.names())
    assert set(reference.LOSSES) == set(Loss.names())
    assert set(reference.OPTIMIZERS) == set(Optimizer.names())
