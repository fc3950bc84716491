"""How a training on a GPU goes and ends, against the processor: validation, patience, divergence."""

import numpy as np
import pytest
from simulated import BOUND, both, problem
from strategies import scaled_error

import fastbp as fb

pytestmark = pytest.mark.usefixtures("gpu")

NETWORK = fb.mlp(3, 4, 2, activation="tanh")


def held_out(rows=9):
    """Data for validation, and weights of which one is zero."""
    X, y = problem(rows, seed=1)
    return X, y, np.arange(rows, dtype=float)


def test_validation_data_of_ones_own():
    X, y = problem()
    settings = {"optimizer": fb.Adam(0.01), "epochs": 2, "batch_size": 12}
    X_held, y_held, weights = held_out()
    result, model = both(NETWORK, X, y, validation=(X_held, y_held, weights), **settings)
    expected = model.loss(X_held, y_held, sample_weight=weights)
    assert result.validation_loss == pytest.approx(expected, rel=1e-12)
    plain, _ = both(NETWORK, X, y, validation=(X_held, y_held), **settings)
    assert abs(plain.validation_loss - result.validation_loss) > 1e-6
    assert np.array_equal(plain.history["loss"], result.history["loss"])


def test_patience_keeps_the_best_epoch():
    """With a rate so large that the held-out loss falls once and rises."""
    X, y = problem()
    result, model = both(
        NETWORK,
        X,
        y,
        validation=held_out(),
        optimizer=fb.Adam(0.3),
        epochs=30,
        batch_size=12,
        patience=2,
    )
    assert result.stopped_by == "patience"
    losses = result.history["validation_loss"]
    assert result.best_epoch == 1 + losses.argmin() == result.epochs - 2
    assert result.best_epoch > 1
    X_held, y_held, weights = held_out()
    found = model.loss(X_held, y_held, sample_weight=weights)
    assert found == pytest.approx(losses.min(), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 4])
def test_batches_of_one_row(rows):
    X, y = problem(rows)
    both(NETWORK, X, y, optimizer=fb.Adam(0.01), epochs=2, batch_size=1, clip_norm=0.5)


def test_a_model_is_trained_a_second_time():
    """From where the first training left it, with slots that are new."""
    X, y = problem()
    settings = {"optimizer": fb.Adam(0.01), "epochs": 1, "batch_size": 12}
    twice, model = both(NETWORK, X, y, times=2, **settings)
    once, first = both(NETWORK, X, y, **settings)
    assert twice.loss < once.loss
    assert not np.array_equal(model.parameters, first.parameters)


def test_a_callback_and_an_interrupt():
    X, y = problem(20)
    model = fb.Model(NETWORK)
    result = fb.train(
        model, X, y, epochs=3, batch_size=20, device="cuda", callbacks=[lambda row, model: True]
    )
    assert (result.stopped_by, result.epochs) == ("callback", 1)

    def interrupt(row, model):
        raise KeyboardInterrupt

    before = model.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        fb.train(model, X, y, epochs=3, batch_size=20, device="cuda", callbacks=[interrupt])
    assert not np.array_equal(model.parameters, before)
    assert np.isfinite(model.parameters).all()


def diverging(device, X, y, **settings):
    """The error of a training that diverges, the losses of its epochs, and the model."""
    model, losses = fb.Model(fb.mlp(3, 4, 2, activation="identity"), seed=0), []
    with pytest.raises(fb.DivergenceError) as caught:
        fb.train(
            model,
            X,
            y,
            device=device,
            callbacks=[lambda row, model: losses.append(row["loss"])],
            **settings,
        )
    return caught.value, losses, model


def test_divergence_is_seen_and_the_last_good_parameters_kept():
    X, y = problem(20)
    error, losses, model = diverging(
        "cuda", X, 1e4 * y, optimizer=fb.SGD(1e25), batch_size=5, epochs=3
    )
    assert (error.epoch, error.quantity, losses) == (1, "loss", [])
    assert np.array_equal(model.parameters, fb.Model(model.network, seed=0).parameters)


def test_a_loss_that_overflows_late_under_clipping():
    """Two epochs of two steps are fine; the first step of the third leaps, so the next one fails."""
    X, y = problem(20)
    settings = {"optimizer": fb.SGD(0.1), "schedule": fb.StepDecay(2, 1e30), "clip_norm": 0.5}
    settings |= {"batch_size": 10, "epochs": 4}
    (expected, wanted, processor), (error, losses, model) = (
        diverging(device, X, y, **settings) for device in ("cpu", "cuda")
    )
    assert str(error) == str(expected)
    assert (error.epoch, error.step, error.quantity) == (3, 6, "loss")
    assert len(losses) == 2
    assert scaled_error(losses, wanted) < BOUND["float32"]
    assert scaled_error(model.parameters, processor.parameters) < BOUND["float32"]
    initial = fb.Model(model.network, seed=0).parameters
    assert scaled_error(model.parameters, initial) > 0.01
