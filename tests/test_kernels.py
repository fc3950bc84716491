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
    close,
    dtypes,
    generator,
    rows_untouched,
    scalars_tensor,
    shapes,
    vector,
)
from strategies import every_loss, make_targets, settings_of

import fastbp as fb
from fastbp import shuffle
from fastbp.activations import Activation
from fastbp.backends.contract import KERNELS, Batch, Scalar
from fastbp.backends.cpu.compiler import FACTORIES, MODULES, MODULES_IN_LANES
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer


def test_contract_and_backend_name_the_same_kernels():
    assert set(FACTORIES) == set(KERNELS)
    for module in (*MODULES, *MODULES_IN_LANES):
        for name in module.__all__:
            assert FACTORIES[name].__name__ == name
    in_lanes = {name for module in MODULES_IN_LANES for name in module.__all__}
    assert in_lanes == {name for name in KERNELS if name.endswith("_in_lanes")}


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
        units = min(units, 64 // np.dtype(dtype).itemsize)
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


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 17, 63, 64, 65])
@every_loss
def test_every_loss(loss, outputs, weighted, dtype):
    n, data_rows = 9, 13
    rng = generator(4, outputs)
    O, slopes = rng.normal(size=(n, outputs)), rng.normal(size=(n, outputs))
    y = make_targets(loss.name, data_rows, outputs, rng)
    w = rng.uniform(0.0, 2.0, data_rows)
    index = rng.permutation(data_rows)[:n]
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
    if loss.kernel != "cross_entropy_loss":
        tensors["settings"] = vector(loss.settings or 0.0, dtype)
    before = call(loss.kernel, dtype, tensors, (outputs,), 1, 8, law=loss)
    weight = w[index] if weighted else np.ones(n)
    O = tensors["output"].matrix.astype(float)
    problem = loss.name, O, y[index]
    expected = weight * reference.row_losses(*problem, **settings_of(loss))
    slope = weight[:, None] * reference.output_derivative(*problem, **settings_of(loss))
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


@dtypes
@pytest.mark.parametrize("rows", [1, 7, 16, 17, 150])
def test_reduce_loss_adds_every_row_once(rows, dtype):
    """Rows beyond the segment hold NaN."""
    rng = generator(8, rows)
    losses, weights = rng.normal(size=rows + 20), rng.uniform(size=rows + 20)
    losses[rows:] = weights[rows:] = np.nan
    tensors = {
        "scalars": scalars_tensor(),
        "row_loss": vector(losses, dtype),
        "row_weight": vector(weights, dtype),
        "batch": batch_tensor(ROWS=rows, BEGINS=1, ENDS=1),
    }
    call("reduce_loss", dtype, tensors, (), 0, 0)
    found = tensors["scalars"].matrix[0]
    for place, name in ((Scalar.WEIGHTED_LOSS_SUM, "row_loss"), (Scalar.WEIGHT_SUM, "row_weight")):
        exact = tensors[name].matrix[0, :rows].astype(float).sum()
        assert found[place] == pytest.approx(exact, rel=1e-14, abs=1e-14)


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
