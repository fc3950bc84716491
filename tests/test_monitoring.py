"""Early stopping on any metric."""

import math

import numpy as np
import pytest

import fastbp as fb
from fastbp.losses import Loss
from fastbp.metrics import METRICS
from fastbp.monitoring import Monitor


def test_every_metric_against_its_definition():
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=(2, 40, 2))
    assert METRICS["rmse"][0](y, p) == pytest.approx(math.sqrt(((y - p) ** 2).mean()))
    assert METRICS["mae"][0](y, p) == pytest.approx(np.abs(y - p).mean())
    share = ((y - p) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert METRICS["r2"][0](y, p) == pytest.approx((1 - share).mean())
    labels = np.array([0, 0, 0, 1, 2, 2])
    found = np.array([0, 0, 1, 1, 0, 2])
    probabilities = np.eye(3)[found]
    assert METRICS["accuracy"][0](labels, probabilities) == pytest.approx(4 / 6)
    mean = (2 / 3 + 1 + 1 / 2) / 3
    assert METRICS["balanced_accuracy"][0](labels, probabilities) == pytest.approx(mean)
    signs = np.array([[-1.0], [1.0], [1.0], [-1.0]])
    assert METRICS["accuracy"][0](signs, np.array([[-3.0], [0.2], [-0.1], [-0.5]])) == 0.75
    ones = np.array([[0.0], [1.0], [1.0]])
    assert METRICS["accuracy"][0](ones, np.array([[0.4], [0.6], [0.4]])) == pytest.approx(2 / 3)


def problem():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(120, 3))
    return X, np.digitize(X @ [1.0, -1.0, 0.5] + rng.normal(size=120), [-0.7, 0.7])


@pytest.mark.parametrize("validation", [None, 0.3, "arrays"])
def test_patience_watches_accuracy(validation):
    """The best epoch is that of the highest accuracy of the model's own predictions."""
    X, y = problem()
    held_out = (X[80:], y[80:])
    given = held_out if validation == "arrays" else validation
    model, seen = fb.Model(fb.mlp(3, 16, 3), dtype="float64"), []

    def look(row, model):
        seen.append(
            (float(row["metric"]), model.parameters.copy(), model.predict(X).argmax(axis=1))
        )

    result = fb.train(
        model,
        X[:80],
        y[:80],
        loss="cross_entropy",
        batch_size=16,
        epochs=40,
        patience=4,
        monitor="accuracy",
        validation=given,
        optimizer=fb.Adam(0.03),
        callbacks=[look],
    )
    values = np.array([value for value, _, _ in seen])
    assert np.array_equal(values, result.history["metric"])
    assert result.best_epoch == int(np.argmax(values)) + 1  # the first of the highest
    assert np.array_equal(model.parameters, seen[result.best_epoch - 1][1])
    assert len(np.unique(values)) > 2
    if validation != 0.3:
        rows = slice(80, None) if validation == "arrays" else slice(0, 80)
        expected = [(classes[rows] == y[rows]).mean() for _, _, classes in seen]
        assert np.array_equal(values, expected)
    if result.stopped_by == "patience":
        assert "accuracy did not improve for 4 epochs" in result.message


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("ema", [None, 0.8])
def test_a_metric_of_ones_own_gets_the_units_of_the_user(standardize, ema):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 3))
    y = 1000 + 50 * X[:, 0]
    given, seen = [], []

    def worst(targets, predictions):
        given.append((targets, predictions))
        return np.abs(targets - predictions).max()

    result = fb.train(
        fb.Model(fb.mlp(3, 8, 1), dtype="float64"),
        X,
        y,
        epochs=3,
        batch_size=10,
        monitor=worst,
        ema=ema,
        standardize=standardize,
        callbacks=[lambda row, model: seen.append(model.predict(X))],
    )
    for i, (targets, predictions) in enumerate(given):
        assert np.allclose(targets[:, 0], y, rtol=1e-12, atol=0)
        assert np.array_equal(predictions, seen[i])
        assert result.history["metric"][i] == np.abs(targets - predictions).max()


def test_schedules_watch_it_too():
    """A metric that is better the larger it is, and rises: no plateau ever."""
    X, y = problem()
    values = iter(range(20))
    rising = fb.Metric(lambda targets, predictions: next(values), larger_is_better=True, name="up")
    settings = {"schedule": fb.ReduceOnPlateau(patience=1), "epochs": 6, "loss": "cross_entropy"}
    result = fb.train(fb.Model(fb.mlp(3, 3)), X, y, monitor=rising, **settings)
    assert len(set(result.history["learning_rate"])) == 1
    values = iter(range(20))
    falling = fb.Metric(lambda targets, predictions: next(values), name="down")
    result = fb.train(fb.Model(fb.mlp(3, 3)), X, y, monitor=falling, **settings)
    assert len(set(result.history["learning_rate"])) == 5


@pytest.mark.parametrize(
    ("monitor", "error", "message"),
    [
        ("acuracy", ValueError, "expected one of loss, validation_loss, accuracy"),
        (3, TypeError, "expected a name, a callable or a Metric"),
        ("validation_loss", ValueError, "expected validation data"),
        ("rmse", ValueError, "rmse is not for targets of the loss cross_entropy"),
    ],
)
def test_what_cannot_be_watched(monitor, error, message):
    with pytest.raises(error, match=f"monitor: {message}"):
        Monitor.resolve(monitor, Loss.resolve("cross_entropy"), has_validation=False)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda t, p: math.nan, ValueError, "got NaN"),
        (lambda t, p: None, TypeError, "failed"),
    ],
)
def test_a_metric_that_says_nothing_stops_the_training(function, error, message):
    X, y = problem()
    model = fb.Model(fb.mlp(3, 3))
    with pytest.raises(error, match=message):
        fb.train(model, X, y, loss="cross_entropy", epochs=2, monitor=function)
    assert np.isfinite(model.parameters).all()


def test_metrics_are_checked_when_made():
    for arguments in ((3,), (max, "yes"), (max, False, 4)):
        with pytest.raises(TypeError):
            fb.Metric(*arguments)
