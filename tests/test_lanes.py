"""The kernels for rows in lanes, against NumPy and against the kernels for units in lanes.

Matrices have a column for each row of the batch. Whole panels are written, so that columns beyond
the batch are checked only where the next kernel relies on them.
"""

from dataclasses import replace

import numpy as np
import pytest
import reference
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
    vector,
)
from strategies import Case, every_loss, make_targets, scaled_error, settings_of
from test_gradient_kernels import panel_spans

import fastbp as fb
from fastbp.backends.choose import geometry
from fastbp.backends.cpu import tuning
from fastbp.plan import build_plan

# (rows, features, units): rows round a line and a panel, units round chunks, panels and tiles.
SHAPES = [
    (1, 1, 1),
    (15, 4, 3),
    (16, 5, 16),
    (33, 7, 17),
    (64, 16, 4),
    (65, 3, 33),
    (100, 65, 5),
    (129, 31, 66),
    (200, 70, 20),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
turnings = pytest.mark.parametrize("turned", [0, 1])


def panel_start(n, dtype):
    """The begin of the last panel of some rows, so that not only whole ranges are tried."""
    return (n - 1) // panel_columns(dtype) * panel_columns(dtype)


def weight_of(W, turned, dtype):
    matrix = W.T if turned else W
    return Tensor(*matrix.shape, dtype, matrix)


def zeros_after(values, n, dtype):
    """A matrix in lanes of more columns than the batch: zeros up to the panel's end, then NaN."""
    panel = panel_columns(dtype)
    end = -(-n // panel) * panel
    beyond = np.zeros((len(values), end - n))
    return np.hstack([values, beyond, np.full((len(values), panel), np.nan)])


@dtypes
@pytest.mark.parametrize("features", [1, 2, 4, 5, 15, 16, 17, 66])
@pytest.mark.parametrize("n", [1, 16, 31, 64, 70])
def test_gather_inputs_in_lanes(n, features, dtype):
    data_rows = n + 9
    X = generator(20).normal(size=(data_rows, features))
    index = generator(21).permutation(data_rows)[: n + 2]
    tensors = {
        "inputs": Tensor(features, n, dtype),
        "data_inputs": Tensor(data_rows, features, dtype, X, padded=False),
        "row_index": vector(index, "int64"),
        "batch": batch_tensor(POSITION=13, ROWS=n, DATA_ROWS=data_rows, ORDER_BEGIN=11),
    }
    first = panel_start(n, dtype)
    call("gather_inputs_in_lanes", dtype, tensors, (features,), first, n)
    found = tensors["inputs"].read()
    assert np.array_equal(found[:, first:n], X[index[2 + first :]].T.astype(dtype))
    assert not found[:, n:].any()
    assert np.isnan(found[:, :first]).all()


@dtypes
@shapes
@turnings
def test_dense_forward_in_lanes(shape, turned, dtype):
    n, features, units = shape
    rng = generator(22, *shape)
    X, W = rng.normal(size=(n, features)), rng.normal(size=(features, units))
    b = rng.normal(size=units)
    tensors = {
        "output": Tensor(units, n, dtype),
        "derivative": Tensor(units, n, dtype),
        "inputs": Tensor(features, n, dtype, X.T),
        "weight": weight_of(W, turned, dtype),
        "bias": vector(b, dtype),
        "settings": vector(0.0, dtype),
    }
    first = panel_start(n, dtype)
    call("dense_forward_in_lanes", dtype, tensors, (turned,), first, n, law=fb.Sigmoid())
    expected = (1 / (1 + np.exp(-(X @ W + b)))).T[:, first:]
    close(tensors["output"].matrix[:, first:], expected, dtype)
    close(tensors["derivative"].matrix[:, first:], expected * (1 - expected), dtype)
    for name in ("output", "derivative"):
        assert np.isnan(tensors[name].matrix[:, :first]).all()


@dtypes
@shapes
@turnings
def test_dense_backward_data_in_lanes(shape, turned, dtype):
    n, features, units = shape
    rng = generator(23, *shape)
    D, W = rng.normal(size=(n, units)), rng.normal(size=(features, units))
    slopes = rng.normal(size=(n, features))
    tensors = {
        "input_delta": Tensor(features, n, dtype, slopes.T),
        "delta": Tensor(units, n, dtype, D.T),
        "weight": weight_of(W, turned, dtype),
    }
    first = panel_start(n, dtype)
    call("dense_backward_data_in_lanes", dtype, tensors, (turned,), first, n)
    found = tensors["input_delta"].read()
    close(found[:, first:n], (slopes * (D @ W.T)).T[:, first:], dtype)
    assert not found[:, n:].any()
    assert np.array_equal(found[:, :first], slopes.T[:, :first].astype(dtype))


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 3, 4, 16, 18])
@every_loss
def test_every_loss_in_lanes(loss, outputs, weighted, dtype):
    n, data_rows = 75, 80
    rng = generator(24, outputs)
    O, slopes = rng.normal(size=(n, outputs)), rng.normal(size=(n, outputs))
    y = make_targets(loss.name, data_rows, outputs, rng)
    w = rng.uniform(0.0, 2.0, data_rows)
    w[::5] = 0.0
    index = rng.permutation(data_rows)[:n]
    labels = y.ndim == 1
    delta = Tensor(outputs, n, dtype, slopes.T)
    for panel in delta.panels():  # whatever stands beyond the batch must become zero
        panel[:, :] = np.where(panel == 0, 7.0, panel)
    tensors = {
        "row_loss": Tensor(1, n, dtype),
        "row_weight": Tensor(1, n, dtype),
        "delta": delta,
        "output": Tensor(outputs, n, dtype, O.T),
        "data_targets": Tensor(
            data_rows, 1 if labels else outputs, "int64" if labels else dtype, y, padded=False
        ),
        "data_weights": Tensor(data_rows, 1, dtype, w, padded=False) if weighted else Absent(),
        "row_index": vector([-1, -1, *index], "int64"),
        "batch": batch_tensor(POSITION=5, ORDER_BEGIN=3),
    }
    if loss.kernel != "cross_entropy_loss":
        tensors["settings"] = vector(loss.settings or 0.0, dtype)
    first = panel_start(n, dtype)
    call(f"{loss.kernel}_in_lanes", dtype, tensors, (outputs,), first, n, law=loss)
    weight = w[index] if weighted else np.ones(n)
    O = tensors["output"].matrix.T.astype(float)
    problem = loss.name, O, y[index]
    expected = weight * reference.row_losses(*problem, **settings_of(loss))
    slope = weight[:, None] * reference.output_derivative(*problem, **settings_of(loss))
    close(tensors["row_loss"].matrix[0, first:], expected[first:], dtype)
    close(tensors["row_weight"].matrix[0, first:], weight[first:], dtype)
    found = delta.read()
    close(found[:, first:n], (slopes * slope).T[:, first:], dtype)
    assert not found[:, n:].any()
    assert np.array_equal(found[:, :first], slopes.T[:, :first].astype(dtype))
    assert np.isnan(tensors["row_loss"].matrix[0, :first]).all()


@dtypes
@shapes
@pytest.mark.parametrize("segments", [1, 3])
def test_weight_and_bias_gradient_in_lanes(shape, segments, dtype):
    """Later columns of the buffers, which a shorter batch does not reach, hold NaN."""
    n, features, units = shape
    rng = generator(25, *shape)
    gradient, bias_gradient = Tensor(features, units, dtype), Tensor(1, units, dtype)
    expected, expected_bias = np.zeros((features, units)), np.zeros(units)
    for segment in range(segments):
        A, D = rng.normal(size=(features, n)), rng.normal(size=(units, n))
        inputs, delta = (zeros_after(values, n, dtype) for values in (A, D))
        ends = segment == segments - 1
        common = {
            "tile_norm": Absent(),
            "tile_penalty": Absent(),
            "delta": Tensor(*delta.shape, dtype, delta),
            "scalars": scalars_tensor(GRADIENT_SCALE=0.25),
            "batch": batch_tensor(ROWS=n, BEGINS=int(segment == 0), ENDS=int(ends)),
        }
        expected += A @ D.T
        expected_bias += D.sum(axis=1)
        tensors = {"gradient": gradient, "inputs": Tensor(*inputs.shape, dtype, inputs), **common}
        tensors["parameter"] = Tensor(features, units, dtype)
        tensors["penalties"] = Absent()
        for _, row, first, last in panel_spans(features, units, dtype, 16):
            before = call("dense_weight_gradient_in_lanes", dtype, tensors, (16, 0), first, last)
            changed = gradient.whole != before["gradient"]
            changed &= ~(np.isnan(gradient.whole) & np.isnan(before["gradient"]))
            outside = np.r_[0:row, row + last - first : features]
            assert not gradient.read(changed)[outside].any()
        tensors = {"gradient": bias_gradient, **common}
        panels = -(-units // panel_columns(dtype))
        call("dense_bias_gradient_in_lanes", dtype, tensors, (9, 0), 0, panels)
    close(gradient.matrix, 0.25 * expected, dtype)
    close(bias_gradient.matrix[0], 0.25 * expected_bias, dtype)
    assert gradient.padding_is_zero(0, features)
    assert bias_gradient.padding_is_zero(0, 1)


@dtypes
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_penalties_and_norms_in_lanes(l1, l2, dtype):
    n, features, units, first_tile = 40, 35, 66, 2
    rng = generator(26)
    A, D = rng.normal(size=(features, n)), rng.normal(size=(units, n))
    W = rng.normal(size=(features, units))
    W[0, 0] = 0.0
    panel, height = panel_columns(dtype), 16
    spans = list(panel_spans(features, units, dtype, height))
    tensors = {
        "gradient": Tensor(features, units, dtype),
        "tile_norm": Tensor(1, len(spans) + 4, "float64"),
        "tile_penalty": Tensor(1, len(spans) + 4, "float64"),
        "parameter": Tensor(features, units, dtype, W),
        "penalties": vector([l1, l2], "float64"),
        "inputs": Tensor(features, n, dtype, A),
        "delta": Tensor(units, n, dtype, D),
        "scalars": scalars_tensor(GRADIENT_SCALE=0.5),
        "batch": batch_tensor(ROWS=n, BEGINS=1, ENDS=1),
    }
    name = "dense_weight_gradient_in_lanes"
    for _, _, first, last in spans:
        call(name, dtype, tensors, (height, first_tile), first, last)
    expected = 0.5 * A @ D.T + l2 * W + l1 * np.sign(W)
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
    panels = -(-units // panel)
    call("dense_bias_gradient_in_lanes", dtype, bias, (9, first_tile + len(spans)), 0, panels)
    close(norms[-2], ((0.5 * D.sum(axis=1)) ** 2).sum(), dtype)
    assert sums[-2] == 0.0


def plan_of(network, purpose, rows):
    return build_plan(
        network, purpose, "float32", rows, geometry("cpu"), loss=fb.Mse(), optimizer=fb.Adam()
    )


def test_which_plans_have_rows_in_lanes():
    narrow, broad = fb.mlp(4, 32, 16, 4), fb.mlp(17, 256, 256, 6)
    assert plan_of(narrow, "train", 128).in_lanes
    assert plan_of(narrow, "gradient", 10_000).in_lanes
    assert not plan_of(narrow, "train", 127).in_lanes
    assert not plan_of(narrow, "evaluate", 128).in_lanes
    assert not plan_of(broad, "train", 1024).in_lanes


# Rows that end within a line, a panel, a block and a segment; weights both ways round.
NETWORKS = [
    ((4, 32, 16, 4), ("tanh", "gelu", "identity"), "mse", 1100),
    ((3, 7, 5, 2), ("relu", "sigmoid", "identity"), "huber", 200),
    ((40, 17, 1), ("silu", "identity"), "log_cosh", 129),
    ((5, 20, 19), ("softplus", "identity"), "cross_entropy", 2500),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_gradients_in_lanes_against_the_reference(network, weighted):
    sizes, activations, loss, rows = network
    case = Case(sizes, activations, loss, rows, seed=5)
    assert plan_of(case.network, "gradient", rows).in_lanes
    X, y = case.inputs(), case.targets()
    w = case.sample_weight() if weighted else None
    if weighted:
        w[::3] = 0.0
    found, gradient = case.model().loss_and_gradient(X, y, loss, sample_weight=w)
    expected, pairs, _ = reference.backpropagation(case.weights(), case.activations, X, y, loss, w)
    flat = np.concatenate([array.ravel() for pair in pairs for array in pair])
    assert found == pytest.approx(expected, rel=1e-12)
    assert scaled_error(gradient, flat) <= 1e-12


@dtypes
def test_training_in_lanes_follows_training_row_by_row(dtype):
    """The same epochs with rows in lanes and with a plan that has none: equal up to rounding."""
    rng = generator(27)
    X, y = rng.normal(size=(700, 5)), rng.normal(size=(700, 3))
    w = rng.uniform(0.2, 1.0, 700)

    def trained():
        model = fb.Model(fb.mlp(5, 20, 12, 3, activation="tanh"), dtype=dtype, seed=1)
        result = fb.train(
            model, X, y, optimizer=fb.Adam(0.01), epochs=3, batch_size=150, clip_norm=0.7,
            l1=1e-3, l2=1e-2, validation=0.1, sample_weight=w,
        )  # fmt: skip
        return model.parameters.copy(), result.history["loss"]

    in_lanes = trained()
    before = tuning.GEOMETRY
    tuning.GEOMETRY = replace(before, lane_rows=0)
    try:
        in_rows = trained()
    finally:
        tuning.GEOMETRY = before
    bound = {"float32": 2e-4, "float64": 1e-11}[dtype]
    assert not np.array_equal(in_lanes[0], in_rows[0])  # they are different kernels
    for found, expected in zip(in_lanes, in_rows, strict=True):
        assert np.max(np.abs(found - expected)) <= bound
