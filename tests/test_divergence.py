"""Runs that diverge: when that is seen, what the error says, and what the model has then."""

import math

import numpy as np
import pytest

import fastbp as fb
from fastbp.divergence import RUNAWAY, usual_loss
from fastbp.losses import Loss

NETWORK = fb.mlp(3, 8, 8, 1, activation="tanh")
STEEP = {"optimizer": fb.SGD(3.0), "batch_size": 10, "shuffle": False}  # a linear model runs away


def linear_case(rows=50):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    return X, X @ np.array([1.0, -2.0, 0.5])


def losses_of_a_linear_model(X, y, rate, batch, steps):
    """The batch losses of plain gradient descent on a linear layer, and its weights."""
    W, b = fb.Model(fb.mlp(3, 1), dtype="float64").weights.values()
    W, b, losses = W.copy(), b.copy(), []
    for step in range(steps):
        begin = step * batch % len(X)
        x, target = X[begin : begin + batch], y[begin : begin + batch, None]
        residual = x @ W + b - target
        losses.append(float((residual**2).mean()))
        W, b = W - rate * 2 * x.T @ residual / batch, b - rate * 2 * residual.mean(axis=0)
    return np.array(losses)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loss_that_runs_away_is_found_in_its_step(threads, monkeypatch):
    """Against the rule, worked out beside it: a million times the loss of the start."""
    from fastbp.backends.cpu import engine

    monkeypatch.setattr(engine, "PARALLEL_MULTIPLY_ADDS", 0)
    X, y = linear_case()
    losses = losses_of_a_linear_model(X, y, 3.0, 10, 40)
    limit = 1e6 * max(losses[0], (y.min() - 1) ** 2, (y.max() + 1) ** 2)
    step = int(np.argmax(losses > limit)) + 1
    assert 5 < step < 20
    model = fb.Model(fb.mlp(3, 1), dtype="float64")
    with pytest.raises(
        fb.DivergenceError, match=f"over 1,000,000 times .* at step {step} "
    ) as found:
        fb.train(model, X, y, threads=threads, **STEEP)
    error = found.value
    assert (error.step, error.epoch) == (step, (step - 1) // 5 + 1)
    assert (error.quantity, error.layer) == ("loss", None)
    assert np.array_equal(error.parameters, model.parameters)
    # Those of the last finished epoch.
    other = fb.Model(fb.mlp(3, 1), dtype="float64")
    fb.train(other, X, y, epochs=error.epoch - 1, **STEEP)
    assert np.array_equal(other.parameters, model.parameters)


def test_stopping_instead(tmp_path):
    X, y = linear_case()
    model, other = (fb.Model(fb.mlp(3, 1), dtype="float64") for _ in range(2))
    result = fb.train(model, X, y, on_divergence="stop", **STEEP)
    with pytest.raises(fb.DivergenceError) as found:
        fb.train(other, X, y, **STEEP)
    assert (result.success, result.stopped_by) == (False, "divergence")
    assert result.message == str(found.value)
    assert result.epochs == len(result.history) == found.value.epoch - 1
    assert np.array_equal(model.parameters, other.parameters)
    # In the first epoch there is nothing to report of, and the model is as it was.
    fresh = fb.Model(fb.mlp(3, 1), dtype="float64")
    settings = STEEP | {"optimizer": fb.SGD(1e200)}
    result = fb.train(fresh, X, y, on_divergence="stop", standardize=True, **settings)
    assert (result.success, result.epochs, len(result.history)) == (False, 0, 0)
    assert math.isnan(result.loss)
    assert fresh.scaling is None
    assert np.array_equal(fresh.parameters, fb.Model(fb.mlp(3, 1), dtype="float64").parameters)
    with pytest.raises(ValueError, match="on_divergence: expected 'raise' or 'stop'"):
        fb.train(fresh, X, y, on_divergence="ignore")


def test_stopping_keeps_the_best_parameters_with_patience():
    X, y = linear_case()
    seen = []
    model = fb.Model(fb.mlp(3, 1), dtype="float64")
    result = fb.train(
        model,
        X,
        y,
        on_divergence="stop",
        patience=50,
        callbacks=[lambda row, m: seen.append(m.parameters.copy())],
        **STEEP,
    )
    assert result.best_epoch == np.argmin(result.history["loss"]) + 1
    assert np.array_equal(model.parameters, seen[result.best_epoch - 1])


CASES = {  # (layer, tensor that is made huge, value): what overflows first in float32
    "first outputs": ("0", "0.weight", 3e38, "outputs of layer 0"),
    "second outputs": ("1", "1.weight", 3e38, "outputs of layer 1"),
    "last outputs": ("2", "2.weight", 3e38, "outputs of layer 2"),
}


@pytest.mark.parametrize("batch_size", [10, 200])  # units in lanes, rows in lanes
@pytest.mark.parametrize("name", CASES)
def test_the_first_layer_whose_outputs_overflow_is_named(name, batch_size):
    layer, tensor, value, words = CASES[name]
    X, y = linear_case(203)  # the last batch has 3 rows
    model = fb.Model(fb.mlp(3, 8, 8, 1))
    for weight in model.weights.values():
        weight[...] = 1.0
    model.weights[tensor][...] = value
    before = model.parameters.copy()
    with pytest.raises(fb.DivergenceError, match=words) as found:
        fb.train(model, np.abs(X) + 1, y, batch_size=batch_size)
    assert (found.value.layer, found.value.quantity, found.value.step) == (layer, "loss", 1)
    assert np.array_equal(model.parameters, before)


def test_the_last_layer_whose_gradient_overflows_is_named():
    """Deltas of 1e160 in the first layer: the sum of the squares is beyond float64."""
    X, y = linear_case()
    model = fb.Model(fb.mlp(3, 4, 4, 1), dtype="float64")
    for weight in model.weights.values():
        weight[...] = 1.0
    model.weights["1.weight"][...] = 1e130
    model.weights["2.weight"][...] = 1e30
    with pytest.raises(fb.DivergenceError, match="gradient of layer") as found:
        fb.train(model, np.abs(X), y, loss="mae")
    norms = {}
    _, gradient = model.loss_and_gradient(np.abs(X), y, "mae")
    start = 0
    for name, weight in model.weights.items():
        part = gradient[start : start + weight.size]
        start += weight.size
        with np.errstate(over="ignore"):
            norms.setdefault(name.partition(".")[0], []).append((part**2).sum())
    assert [name for name, squares in norms.items() if not np.isfinite(sum(squares))] == ["0"]
    assert (found.value.layer, found.value.quantity, found.value.step) == ("0", "gradient", 1)


def test_a_parameter_that_overflows_in_the_last_step_is_named(small):
    """A step of 20 times 1e38, in the last layer alone, at the end of the first epoch."""
    X, y = small
    model = fb.Model(NETWORK)
    model.weights["2.weight"][...] = 0.0
    with pytest.raises(fb.DivergenceError, match="a parameter of layer 2") as found:
        fb.train(model, X, y + 10, optimizer=fb.SGD(1e38), batch_size=50)
    assert (found.value.layer, found.value.quantity, found.value.step) == ("2", "parameter", 1)


def test_the_loss_of_outputs_that_are_usual():
    y = np.array([[-3.0, 1.0], [2.0, 0.5]])
    assert usual_loss(Loss.resolve("mse"), y, 2) == pytest.approx((16 + 4) / 2)
    assert usual_loss(Loss.resolve("mae"), y, 2) == pytest.approx((4 + 2) / 2)
    assert usual_loss(Loss.resolve("cross_entropy"), np.array([0, 1]), 5) == pytest.approx(
        math.log(5)
    )
    for name in Loss.names():
        assert math.isfinite(usual_loss(Loss.resolve(name), np.ones((4, 2)), 2)), name


def test_no_false_alarms_for_outliers_and_for_a_good_start():
    """An outlier of 500 standard deviations in a batch; a model that is already right."""
    X, y = linear_case(200)
    y = y.copy()
    y[150] = 500.0
    fb.train(fb.Model(NETWORK), X, y, epochs=3, batch_size=1)
    model = fb.Model(fb.mlp(3, 1), dtype="float64")
    model.weights["0.weight"][:, 0] = [1.0, -2.0, 0.5]
    fb.train(model, X[:100], linear_case(200)[1][:100], epochs=5, batch_size=10)
    zeros = fb.Model(NETWORK)
    fb.train(zeros, X, np.zeros(200), epochs=3, batch_size=10, optimizer=fb.SGD(0.01))
    assert RUNAWAY == 1e6
