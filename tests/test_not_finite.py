"""NaN and infinity never pass silently, and never leave an old or uninitialised number behind."""

import numpy as np
import pytest

import fastbp as fb


def overflowing(rows, bad):
    """A model and data whose loss overflows in one row alone."""
    model = fb.Model(fb.mlp(2, 1), dtype="float64")
    model.parameters = [1.0, 0.0, 0.0]
    X = np.random.default_rng(0).normal(size=(rows, 2))
    X[bad, 0] = 1000.0  # exp(1000)
    return model, X, np.ones(rows)


def test_loss_and_gradient_are_not_finite_together():
    model, X, y = overflowing(40, 7)
    good = np.delete(np.arange(40), 7)
    _, before = model.loss_and_gradient(X[good], y[good], "poisson")
    loss, gradient = model.loss_and_gradient(X, y, "poisson")
    assert loss == np.inf
    assert not np.isfinite(gradient).any()
    assert not np.array_equal(gradient, before)


@pytest.mark.parametrize("bad", [3, 1500, 4999])
def test_every_row_of_an_input_gradient_is_computed(bad):
    """Rows in chunks after the one that overflows are those of the other rows alone."""
    model, X, y = overflowing(5000, bad)
    found = model.input_gradient(X, y, "poisson")
    others = np.delete(np.arange(5000), bad)
    X[bad] = 0.0
    expected = model.input_gradient(X, y, "poisson")
    assert np.array_equal(found[others], expected[others])
    assert np.isinf(found[bad, 0])


def test_nan_parameters_show_in_everything(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1, activation="tanh"), dtype="float64")
    model.loss_and_gradient(X, y)
    model.parameters[:] = np.nan
    assert np.isnan(model.predict(X)).all()
    assert np.isnan(model.loss(X, y))
    loss, gradient = model.loss_and_gradient(X, y)
    assert np.isnan(loss)
    assert np.isnan(gradient).all()
    assert np.isnan(model.input_gradient(X, y)).all()
    assert np.isnan(model.vjp(X, np.ones(50))).all()
    assert np.isnan(model.jacobian(X)).all()
    with pytest.raises(
        fb.DivergenceError, match="outputs of layer 0 are no longer finite at step 1"
    ):
        fb.train(model, X, y)


@pytest.mark.parametrize("epochs", [1, 3])
def test_parameters_that_overflow_in_an_update_are_found(small, epochs):
    """The loss and the gradient of the step are finite; what the step makes of them is not."""
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1))
    before = model.parameters.copy()
    with pytest.raises(
        fb.DivergenceError, match=r"a parameter of layer [01] is no longer finite"
    ) as caught:
        fb.train(model, X * 100, y * 100, optimizer=fb.SGD(3e38), epochs=epochs)
    assert caught.value.quantity == "parameter"
    assert np.array_equal(model.parameters, before)


def test_adam_without_epsilon_on_a_column_of_zeros(small):
    X, y = small
    X = np.column_stack([X, np.zeros(50)])
    model = fb.Model(fb.mlp(4, 4, 1))
    with pytest.raises(fb.DivergenceError):
        fb.train(model, X, y, optimizer=fb.Adam(epsilon=0.0), epochs=3)
    assert np.isfinite(model.parameters).all()


def test_a_validation_loss_that_overflows_is_found(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1))
    with pytest.raises(fb.DivergenceError, match="validation loss") as caught:
        fb.train(model, X, y, epochs=2, validation=(X * 1e38, y))
    assert caught.value.quantity == "validation loss"


def test_divergence_in_the_first_epoch_keeps_the_old_scaling(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1))
    fb.train(model, X, y, epochs=1, standardize=True)
    before, outputs = model.scaling, model.predict(X)
    with pytest.raises(fb.DivergenceError):
        fb.train(model, X * 7, y, epochs=1, batch_size=2, standardize=True, optimizer=fb.SGD(1e30))
    assert model.scaling is before
    assert np.array_equal(model.predict(X), outputs)


def test_a_row_of_weight_zero_counts_for_nothing_even_with_an_infinite_loss():
    model, X, y = overflowing(40, 7)
    w = np.ones(40)
    w[7] = 0.0
    good = np.delete(np.arange(40), 7)
    loss, gradient = model.loss_and_gradient(X, y, "poisson", sample_weight=w)
    expected = model.loss_and_gradient(X[good], y[good], "poisson")
    assert loss == pytest.approx(expected[0], rel=1e-14)
    assert np.allclose(gradient, expected[1], rtol=1e-13)
    classifier = fb.Model(fb.mlp(2, 3), dtype="float64")
    assert np.isfinite(classifier.loss(X, np.zeros(40, int), "cross_entropy", sample_weight=w))


@pytest.mark.parametrize("scale", [3e-42, 1e-30, 1e30, 3e37, 1e300])
def test_only_the_ratios_of_weights_matter(small, scale):
    X, y = small
    w = np.random.default_rng(0).uniform(0.5, 1, 50)
    model = fb.Model(fb.mlp(3, 4, 1, activation="tanh"))
    loss, gradient = model.loss_and_gradient(X, y, sample_weight=w)
    found = model.loss_and_gradient(X, y, sample_weight=w * scale)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert np.allclose(found[1], gradient, rtol=1e-4, atol=1e-7)


class Odd(fb.Schedule):
    """A schedule that gives whatever it was told to."""

    name = "odd"

    def __init__(self, answer):
        self.answer = answer

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        return self.answer(steps)


del fb.Schedule.registry["odd"]  # the tests that enumerate the registry are about fastbp's own


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda steps: 0.5, r"factors of shape \(10,\); got \(\)"),
        (lambda steps: np.ones(3), r"factors of shape \(10,\); got \(3,\)"),
        (lambda steps: steps * np.nan, "finite factors of at least 0; got nan"),
        (lambda steps: -steps - 1, "finite factors of at least 0; got -1"),
    ],
)
def test_a_schedule_of_ones_own_is_checked(small, answer, message):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1))
    before = model.parameters.copy()
    with pytest.raises(ValueError, match=f"schedule: expected odd to give {message}"):
        fb.train(model, X, y, batch_size=5, schedule=Odd(answer), standardize=True)
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None


@pytest.mark.parametrize("magnitude", [1e-300, 1e-200, 1e200, 1e300])
def test_columns_of_any_magnitude_are_standardised(small, magnitude):
    X, y = small
    scaled = X * [1.0, magnitude, 1.0]
    one, other = fb.Model(fb.mlp(3, 4, 1), "float64"), fb.Model(fb.mlp(3, 4, 1), "float64")
    fb.train(one, X, y, epochs=3, standardize=True)
    fb.train(other, scaled, y, epochs=3, standardize=True)
    assert np.allclose(one.predict(X), other.predict(scaled), rtol=1e-9)


def test_a_fine_signal_on_a_large_mean_is_no_constant():
    x = 1.7e9 + np.linspace(-1e-4, 1e-4, 50)
    model = fb.Model(fb.mlp(1, 1), "float64")
    fb.train(model, x[:, None], np.arange(50.0), epochs=1, standardize=True)
    assert 1e-5 < model.scaling.input_scale[0] < 1e-4
