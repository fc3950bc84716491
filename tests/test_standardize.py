"""Standardisation inside the model."""

import numpy as np
import pytest
from strategies import scaled_error

import fastbp as fb
from fastbp.datasets import split_rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standardize_is_training_on_standardised_data(small, dtype):
    X, y = small
    X, y = X * [1.0, 1e3, 1e-3] + [0.0, 1e6, -5.0], y * 40.0 + 1e3
    network = fb.mlp(3, 8, 1, activation="tanh")
    model, plain = fb.Model(network, dtype), fb.Model(network, dtype)
    result = fb.train(model, X, y, epochs=20, standardize=True)
    Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    expected = fb.train(plain, Z, t, epochs=20)
    bound = 1e-12 if dtype == "float64" else 1e-5
    assert scaled_error(model.parameters, plain.parameters) < bound
    assert result.loss == pytest.approx(expected.loss, rel=bound * 10)
    assert scaled_error(model.predict(X), plain.predict(Z) * y.std() + y.mean()) < bound
    assert model.loss(X, y) == pytest.approx(plain.loss(Z, t), rel=bound * 10)
    jacobian = plain.jacobian(Z) * y.std() / X.std(0)
    assert scaled_error(model.jacobian(X) * X.std(0), jacobian * X.std(0)) < bound
    found = model.input_gradient(X, y) * X.std(0)
    assert scaled_error(found, plain.input_gradient(Z, t)) < bound
    step = np.array([[1e-4, 0.0, 0.0]])
    if dtype == "float64":
        slope = (model.predict(X[:4] + step) - model.predict(X[:4] - step)) / 2e-4
        assert np.allclose(model.vjp(X[:4], np.ones((4, 1)))[:, 0], slope[:, 0], rtol=1e-6)


def test_standardize_fits_on_the_training_rows_only(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1), dtype="float64")
    fb.train(model, X, y, epochs=1, standardize=True, validation=0.4, seed=2)
    rows, _ = split_rows(50, 0.4, 2)
    assert np.allclose(model.scaling.input_mean, X[rows].mean(0))
    assert np.allclose(model.scaling.target_scale, y[rows].std())


def test_standardize_keeps_digits_of_columns_with_a_large_mean():
    """Seconds since 1970 in float32 would have steps of 128."""
    rng = np.random.default_rng(0)
    seconds = 1.7e9 + rng.uniform(0, 1000, 400)
    y = np.sin((seconds - 1.7e9) / 200)
    model = fb.Model(fb.mlp(1, 32, 32, 1, activation="tanh"), dtype="float32")
    fb.train(model, seconds[:, None], y, optimizer=fb.Adam(0.01), epochs=300, standardize=True)
    error = model.predict(seconds[:, None])[:, 0] - y
    assert np.sqrt(np.mean(error**2)) < 0.1


def test_constant_columns_and_classes_are_not_scaled():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=60), np.full(60, 0.1), np.full(60, 1e9)])
    labels = (X[:, 0] > 0).astype(int)
    model = fb.Model(fb.mlp(3, 8, 2))
    result = fb.train(
        model, X, labels, loss="cross_entropy", epochs=60, standardize=True, optimizer=fb.Adam(0.02)
    )
    assert model.scaling.input_scale[1:].tolist() == [1.0, 1.0]
    assert model.scaling.target_mean is None
    assert (model.predict(X).argmax(1) == labels).mean() > 0.95
    assert result.loss < 0.3


def test_training_goes_on_with_the_scaling_a_model_has(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1), dtype="float64")
    fb.train(model, X * 3 + 1, y, epochs=2, standardize=True)
    before = model.scaling
    first = fb.train(model, X * 3 + 1, y, epochs=1, batch_size=50)
    assert model.scaling is before
    assert first.loss == pytest.approx(
        fb.train(model, X * 3 + 1, y, epochs=1, batch_size=50, optimizer=fb.SGD(1e-300)).loss,
        rel=0.1,
    )


def test_sample_weights_weigh_in_the_means_and_scales(small):
    """A row of weight 2 is a row that is there twice."""
    X, y = small
    w = np.ones(50)
    w[:20] = 2.0
    one, other = fb.Model(fb.mlp(3, 4, 1), "float64"), fb.Model(fb.mlp(3, 4, 1), "float64")
    fb.train(one, X, y, epochs=1, batch_size=50, standardize=True, sample_weight=w)
    twice = np.r_[0:20, 0:50]
    fb.train(other, X[twice], y[twice], epochs=1, batch_size=70, standardize=True)
    assert np.allclose(one.scaling.input_mean, other.scaling.input_mean, rtol=1e-13)
    assert np.allclose(one.scaling.input_scale, other.scaling.input_scale, rtol=1e-13)
    assert np.allclose(one.scaling.target_scale, other.scaling.target_scale, rtol=1e-13)
    assert scaled_error(one.parameters, other.parameters) < 1e-12
