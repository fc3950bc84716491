"""A model that has been used gives what a fresh one gives: nothing is left over from a call."""

import numpy as np
import pytest
import reference
from strategies import scaled_error

import fastbp as fb


def problem(rows, stream):
    rng = np.random.default_rng([rows, stream])
    return rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)), rng.uniform(0.1, 1, rows)


def results(model, rows, stream, loss):
    """What one call of each kind gives, as bytes."""
    X, y, w = problem(rows, stream)
    value, gradient = model.loss_and_gradient(X, y, loss, w)
    found = [
        np.float64(value),
        gradient,
        np.float64(model.loss(X, y, loss, w)),
        model.input_gradient(X, y, loss, w),
        model.vjp(X, y),
        model.jacobian(X),
        model.predict(X),
    ]
    return [each.tobytes() for each in found]


def test_every_call_of_a_model_is_that_of_a_fresh_one():
    """Other losses, other numbers of rows and other data in between, and parameters changed."""
    network = fb.mlp(3, 40, 2, activation="tanh")
    used = fb.Model(network, dtype="float64", seed=2)
    calls = [(40, "mse"), (40, "mse"), (40, "mae"), (7, "mse"), (40, "mse"), (1, "mae"), (1, "mae")]
    calls += [(200, "mse"), (200, "mse"), (40, "mae")]
    for stream, (rows, loss) in enumerate(calls):
        fresh = fb.Model(network, dtype="float64", seed=2)
        fresh.parameters = used.parameters
        assert results(used, rows, stream, loss) == results(fresh, rows, stream, loss), stream
        used.parameters *= 1.01


@pytest.mark.parametrize("weighted", [False, True])
def test_many_rows_are_the_sum_of_their_chunks(weighted):
    """Losses and outputs of more rows than an engine's buffers hold."""
    rows = 2500
    X, y, w = problem(rows, 9)
    w = w if weighted else None
    model = fb.Model(fb.mlp(3, 9, 2, activation="tanh"), dtype="float64", seed=2)
    pairs = [(model.weights[f"{i}.weight"], model.weights[f"{i}.bias"]) for i in range(2)]
    outputs = reference.forward(pairs, ["tanh", "identity"], X)
    assert scaled_error(model.predict(X), outputs) < 1e-12
    assert (
        scaled_error(model.loss(X, y, "mse", w), reference.batch_loss("mse", outputs, y, w)) < 1e-12
    )
    _, _, by_inputs = reference.backpropagation(pairs, ["tanh", "identity"], X, y, "mse", w)
    # Of a mean over many rows each row has little: compare in units of the largest.
    found = model.input_gradient(X, y, "mse", w)
    assert np.abs(found - by_inputs).max() < 1e-12 * np.abs(by_inputs).max()
    cotangents = model.vjp(X, y)
    for part in (slice(0, 1024), slice(1024, 2048), slice(2048, rows)):
        assert np.array_equal(cotangents[part], model.vjp(X[part], y[part]))
