"""`fastbp.find_learning_rate`: the curve against plain training, and what it suggests."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from troubled import case, rows

import fastbp as fb
from fastbp.learning_rate import LearningRateCurve, compare, smooth, suggest
from fastbp.schedules import Schedule


def curve_of(model, X, y, keywords, **more):
    return fb.find_learning_rate(model, X, y, **{**keywords, **more})


@pytest.fixture
def growing(monkeypatch):
    """The rates of a test as a schedule, to train by them without it."""
    monkeypatch.setattr(Schedule, "registry", dict(Schedule.registry))

    class Growing(fb.Constant):
        is_same_every_epoch = False

        def factors(self, steps, steps_per_epoch, total_steps, losses):
            return 1e-6 * (1e6 ** (np.minimum(steps, 39) / 39))

    return Growing()


def test_the_losses_are_those_of_training_with_these_rates(growing):
    """The objective of each step, from epochs of one batch each and from their means."""
    model, X, y, _ = case(fb.mlp(8, 16, 1, activation="tanh"))
    X, y = X[:300], y[:300]
    before = model.parameters.copy()
    keywords = {"lowest": 1e-6, "highest": 1.0, "steps": 40, "l2": 0.01}
    found = fb.find_learning_rate(model, X, y, batch_size=300, **keywords)
    assert np.array_equal(model.parameters, before)
    assert np.array_equal(found.rates, np.geomspace(1e-6, 1, 40)[: len(found.rates)])
    trained = copy.copy(model)
    optimizer = fb.Adam(1.0)
    history = fb.train(
        trained, X, y, optimizer=optimizer, schedule=growing, epochs=40, batch_size=300, l2=0.01
    ).history
    assert np.array_equal(found.losses, history["loss"][: len(found.losses)])
    # With several batches an epoch, in the order of training with that seed.
    found = fb.find_learning_rate(model, X, y, batch_size=40, seed=7, **keywords)
    history = fb.train(
        trained := copy.copy(model),
        X,
        y,
        optimizer=optimizer,
        schedule=growing,
        epochs=5,
        batch_size=40,
        seed=7,
        l2=0.01,
    ).history
    assert len(found.losses) == 40
    means = found.losses.reshape(5, 8).mean(axis=1)
    np.testing.assert_allclose(means, history["loss"], rtol=1e-6)
    assert not np.array_equal(trained.parameters, before)


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [
        (fb.SGD(), 0.01, 0.3),
        (fb.SGD(momentum=0.9), 0.002, 0.1),
        (fb.Adam(), 0.002, 0.1),
        (fb.Lion(), 0.0003, 0.03),
    ],
    ids=["sgd", "momentum", "adam", "lion"],
)
def test_the_suggestion_trains_well(optimizer, low, high):
    """Better than a thirtieth of the rate and than thirty times as much, in a few epochs."""
    model, X, y, _ = case(fb.mlp(8, 32, 1))
    found = curve_of(model, X, y, {"optimizer": optimizer, "batch_size": 32})
    assert low < found.suggestion < high
    losses = []
    for factor in (0.03, 1, 30):
        trained = copy.copy(model)
        rate = replace(optimizer, learning_rate=found.suggestion * factor)
        result = fb.train(
            trained, X, y, optimizer=rate, epochs=8, batch_size=32, on_divergence="stop"
        )
        losses.append(trained.loss(X, y) if result.success else math.inf)
    assert losses[1] < min(losses[0], losses[2])
    assert losses[1] < 0.3 * np.var(y)


def test_the_rate_of_the_optimizer_does_not_count():
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    curves = [curve_of(model, X, y, {"optimizer": fb.Adam(rate)}) for rate in (1e-5, 0.1)]
    assert np.array_equal(curves[0].losses, curves[1].losses)
    assert curves[0].suggestion == curves[1].suggestion


def test_threads_change_no_bit_and_seeds_the_order():
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    one, two = (curve_of(model, X, y, {}, threads=n) for n in (1, 2))
    assert np.array_equal(one.losses, two.losses)
    assert not np.array_equal(one.losses[:9], curve_of(model, X, y, {}, seed=1).losses[:9])


def test_standardize_scales_as_training_does():
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    found = curve_of(model, 1000 * X + 5, 1e6 * y, {"standardize": True, "batch_size": 64})
    assert model.scaling is None
    assert 1e-3 < found.suggestion < 0.3
    assert 0.5 < found.losses[0] < 5  # of standardised targets
    fb.train(model, 1000 * X + 5, 1e6 * y, epochs=1, standardize=True, batch_size=64)
    with_scaling = curve_of(model, 1000 * X + 5, 1e6 * y, {"batch_size": 64})
    assert with_scaling.losses[0] < found.losses[0]


def test_what_diverges_ends_the_test():
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    found = curve_of(model, X, y, {"optimizer": "sgd"}, highest=1e6)
    assert len(found.losses) < 200
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert math.isfinite(found.suggestion)
    huge = curve_of(model, X, 1e18 * y, {"optimizer": "sgd"})  # not finite in a few steps
    assert not math.isfinite(huge.losses[-1])
    assert math.isnan(huge.suggestion)
    json.dumps(huge.as_dict(), allow_nan=False)


def test_nothing_is_suggested_where_nothing_falls():
    """At the optimum, where every rate is too high or moves nothing."""
    X, _, _ = rows()
    model = fb.Model(fb.mlp(8, 1))
    y = model.predict(X)[:, 0]
    found = curve_of(model, X, y, {})
    assert math.isnan(found.suggestion)
    assert "no learning rate" in found.message
    assert "no learning rate" in str(found)


def test_each_batch_is_compared_with_itself():
    """Rates that change nothing show as a flat curve, however much batches differ."""
    compared = compare(np.array([2.0, 9.0, -1.0]), np.array([4.0, 10.0, 1.0]), 2.0)
    np.testing.assert_allclose(compared, [1.0, 1.8, 0.0])
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    y = np.where(np.arange(len(y)) % 50 == 0, 30.0, 1.0) * y
    found = curve_of(model, X, y, {"batch_size": 8, "optimizer": "sgd"})
    flat = found.rates < 1e-6
    assert flat.sum() > 20
    assert np.ptp(found.losses[flat]) > 10
    assert np.ptp(found.smoothed[flat]) < 0.01
    assert 1e-4 < found.suggestion < 0.1


def test_smoothing_and_the_rule():
    """By hand: weights of a normal law, and the two rates of a curve that is known."""
    losses = np.array([4.0, 1.0, 1.0, np.inf])
    weights = np.exp(-0.5 * (np.arange(3)[:, None] - np.arange(3)) ** 2 / 4)
    expected = weights @ losses[:3] / weights.sum(axis=1)
    np.testing.assert_allclose(smooth(losses, 2.0)[:3], expected)
    assert math.isnan(smooth(losses, 2.0)[3])
    rates = np.geomspace(1e-4, 1, 9)
    suggestion, message = suggest(rates, np.array([10, 10, 8, 5, 2, 0.5, 0, 0.9, 30.0]))
    assert suggestion == pytest.approx(math.sqrt(rates[3] * rates[7]))
    assert "try" in message
    assert math.isnan(suggest(rates[:1], np.array([np.nan]))[0])


def test_the_curve_as_text_data_and_picture(tmp_path):
    model, X, y, _ = case(fb.mlp(8, 16, 1))
    found = curve_of(model, X, y, {})
    assert isinstance(found, LearningRateCurve)
    lines = str(found).splitlines()
    assert len(lines) == 2 + 12 + 1
    assert f"try {found.suggestion:.2g}" in lines[-1]
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["losses"] == found.losses.tolist()
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert found.plot(axes) is axes
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == 3
    axes.figure.savefig(tmp_path / "curve.png")
    assert found.plot().get_xlabel() == "learning rate"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"lowest": 0.0}, ValueError, "lowest"),
        ({"highest": 1e-8}, ValueError, "highest"),
        ({"highest": math.inf}, ValueError, "highest"),
        ({"steps": 9}, ValueError, "steps"),
        ({"steps": 10.5}, TypeError, "steps"),
        ({"model": 3}, TypeError, "model: expected a Model"),
        ({"loss": "mes"}, ValueError, "loss: expected one of"),
        ({"y": np.full(5, np.inf)}, ValueError, "y: expected finite"),
        ({"device": "tpu"}, ValueError, "device"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm"),
        ({"standardize": "yes"}, TypeError, "standardize"),
        ({"loss": "cross_entropy"}, ValueError, "loss: cross_entropy needs"),
    ],
)
def test_refusals(change, error, match):
    model = fb.Model(fb.mlp(8, 4, 1))
    before = model.parameters.copy()
    arguments = {"model": model, "X": np.ones((5, 8)), "y": np.ones(5)}
    with pytest.raises(error, match=match):
        fb.find_learning_rate(**{**arguments, **change})
    assert np.array_equal(model.parameters, before)
