"""What train() does, against the naive reference and against its own documentation."""

import math

import numpy as np
import pytest
import reference
from strategies import Case, make_targets, scaled_error

import fastbp as fb
from fastbp import shuffle
from fastbp.datasets import split_rows


def batches(rows, batch_size, epochs, seed=None):
    """Row numbers of every batch, as the documentation of the shuffle says."""
    result = []
    for epoch in range(epochs):
        order = np.arange(rows)
        if seed is not None:
            keys, bits = shuffle.round_keys(seed, epoch).tolist(), shuffle.index_bits(rows)
            order = np.array([shuffle.permute(i, rows, bits, keys) for i in range(rows)])
        result += [order[k : k + batch_size] for k in range(0, rows, batch_size)]
    return result


def compare(case, optimizer, rows_per_batch, epochs, *, shuffled, weighted, **penalties):
    model = case.model()
    X, y = case.inputs(), case.targets()
    w = case.sample_weight() if weighted else None
    result = fb.train(
        model,
        X,
        y,
        loss=case.loss,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=rows_per_batch,
        shuffle=shuffled,
        seed=5,
        sample_weight=w,
        **penalties,
    )
    settings = optimizer.describe()
    del settings["name"]
    expected, objectives = reference.train(
        case.weights(),
        case.activations,
        X,
        y,
        case.loss,
        optimizer.name,
        settings,
        batches(case.rows, rows_per_batch, epochs, 5 if shuffled else None),
        w,
        **penalties,
    )
    per_epoch = np.reshape(objectives, (epochs, -1)).mean(axis=1)
    assert scaled_error(result.history["loss"], per_epoch) < 1e-10
    flat = np.concatenate([array.ravel() for pair in expected for array in pair])
    assert scaled_error(model.parameters, flat) < 1e-10
    return result


@pytest.mark.parametrize("rows_per_batch", [1, 7, 16, 50, 53, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_and_the_smaller_last_one_are_exact(rows_per_batch, shuffled):
    case = Case((4, 9, 3), ("tanh", "identity"), "mse", 53, 3)
    result = compare(
        case, fb.SGD(0.05, momentum=0.5), rows_per_batch, 3, shuffled=shuffled, weighted=False
    )
    assert result.steps == 3 * math.ceil(53 / min(rows_per_batch, 53))


@pytest.mark.parametrize(
    "penalties",
    [
        {},
        {"clip_norm": 0.05},
        {"clip_value": 0.01},
        {"clip_norm": 0.5, "clip_value": 0.02},
        {"l1": 0.01, "l2": 0.1},
        {"l2": 0.3, "clip_norm": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["huber", "cross_entropy"])
@pytest.mark.parametrize("rows_per_batch", [1, 2, 16])
def test_clipping_penalties_and_weights(rows_per_batch, penalties, loss):
    case = Case((6, 70, 5), ("gelu", "identity"), loss, 41, 8)
    compare(case, fb.Adam(0.01), rows_per_batch, 4, shuffled=True, weighted=True, **penalties)


def test_clipping_splits_the_weight_pass_over_several_tiles():
    case = Case((130, 70, 130, 2), ("tanh", "silu", "identity"), "mse", 33, 8)
    compare(case, fb.AdamW(0.01), 33, 2, shuffled=False, weighted=False, clip_norm=0.1)
    compare(case, fb.AdamW(0.01), 33, 2, shuffled=False, weighted=False)


@pytest.mark.parametrize("rows", [50, 1])
@pytest.mark.parametrize("clip_norm", [1e-3, None])
def test_gradient_norm_and_learning_rate_in_the_history(clip_norm, rows, small):
    """A weight's bias has its part of the norm whether or not it is changed with the weight."""
    X, y = (array[:rows] for array in small)
    network = fb.mlp(3, 5, 40, 20, 1, activation="tanh")
    model = fb.Model(network, dtype="float64")
    _, gradient = model.loss_and_gradient(X, y)
    result = fb.train(
        model,
        X,
        y,
        optimizer=fb.SGD(0.1),
        epochs=6,
        batch_size=50,
        schedule=fb.StepDecay(2, 0.5),
        clip_norm=clip_norm,
    )
    assert result.history["gradient_norm"][0] == pytest.approx(np.linalg.norm(gradient))
    assert result.history["learning_rate"].tolist() == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    assert result.history["epoch"].tolist() == list(range(1, 7))
    assert np.isnan(result.history["validation_loss"]).all()
    assert (result.history["seconds"] > 0).all()


def test_schedules_act_on_every_step(small):
    X, y = small
    case = fb.mlp(3, 4, 1)
    one, other = fb.Model(case, "float64", 1), fb.Model(case, "float64", 1)
    fb.train(
        one,
        X,
        y,
        optimizer=fb.SGD(0.1),
        epochs=2,
        batch_size=25,
        schedule=fb.CosineDecay(),
        shuffle=False,
    )
    rates = 0.1 * fb.CosineDecay().factors(np.arange(4.0), 2, 4, [])
    for step, rate in enumerate(rates):
        rows = slice(0, 25) if step % 2 == 0 else slice(25, 50)
        _, gradient = other.loss_and_gradient(X[rows], y[rows])
        other.parameters -= rate * gradient
    assert scaled_error(one.parameters, other.parameters) < 1e-13


def test_reduce_on_plateau_follows_the_validation_loss(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1), "float64")
    result = fb.train(
        model,
        X,
        y,
        optimizer=fb.SGD(1e-300),
        epochs=8,
        validation=(X, y),
        threads=1,
        schedule=fb.ReduceOnPlateau(factor=0.5, patience=2),
    )
    found = result.history["learning_rate"] / 1e-300
    assert np.allclose(found, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])


def test_validation_by_fraction_and_by_arrays(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 8, 1), dtype="float64")
    result = fb.train(model, X, y, epochs=5, validation=0.2, seed=3)
    train_rows, held_rows = split_rows(50, 0.2, 3)
    assert len(held_rows) == 10
    assert sorted([*train_rows, *held_rows]) == list(range(50))
    last = model.loss(X[held_rows], y[held_rows])
    assert result.validation_loss == pytest.approx(last, rel=1e-14)
    again = fb.Model(fb.mlp(3, 8, 1), dtype="float64")
    other = fb.train(
        again,
        X[train_rows],
        y[train_rows],
        epochs=5,
        seed=3,
        validation=(X[held_rows], y[held_rows]),
    )
    assert np.array_equal(again.parameters, model.parameters)
    assert other.validation_loss == result.validation_loss


def test_weighted_validation(small):
    X, y = small
    w = np.random.default_rng(0).uniform(0.1, 2, 50)
    model = fb.Model(fb.mlp(3, 8, 1), dtype="float64")
    result = fb.train(model, X, y, epochs=2, sample_weight=w, validation=(X[:20], y[:20], w[:20]))
    expected = model.loss(X[:20], y[:20], sample_weight=w[:20])
    assert result.validation_loss == pytest.approx(expected, rel=1e-14)


def test_patience_restores_the_best_parameters(small):
    X, y = small
    kept = {}

    def remember(row, model):
        kept[int(row["epoch"])] = model.parameters.copy()

    model = fb.Model(fb.mlp(3, 30, 1, activation="tanh"), dtype="float64")
    result = fb.train(
        model,
        X,
        y,
        optimizer=fb.Adam(0.3),
        epochs=200,
        batch_size=10,
        validation=(X[::2] + 0.5, y[::2]),
        patience=6,
        callbacks=[remember],
    )
    losses = result.history["validation_loss"]
    assert result.stopped_by == "patience"
    assert result.best_epoch == 1 + int(np.argmin(losses))
    assert result.epochs == result.best_epoch + 6 < 200
    assert result.validation_loss == losses.min()
    assert np.array_equal(model.parameters, kept[result.best_epoch])
    assert "patience" not in result.message
    assert str(result.best_epoch) in result.message


def test_patience_without_validation_watches_the_training_loss(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1))
    result = fb.train(model, X, y, optimizer=fb.SGD(1e-300), epochs=50, patience=3)
    assert result.stopped_by == "patience"
    assert result.epochs == 4


def test_callbacks_stop_training_and_see_the_epochs_parameters(small):
    X, y = small
    seen = []

    def stop_at_three(row, model):
        seen.append((float(row["loss"]), model.loss(X, y)))
        return row["epoch"] == 3

    model = fb.Model(fb.mlp(3, 4, 1), dtype="float64")
    result = fb.train(model, X, y, epochs=10, callbacks=[stop_at_three])
    assert (result.stopped_by, result.epochs, len(seen)) == ("callback", 3, 3)
    assert model.loss(X, y) == seen[-1][1]


@pytest.mark.parametrize("loss", fb.losses.Loss.names())
@pytest.mark.parametrize("optimizer", fb.optimizers.Optimizer.names())
def test_every_optimizer_lowers_every_loss(loss, optimizer):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(64, 4))
    y = make_targets(loss, 64, 3, rng)
    rates = {"adadelta": 5.0, "lion": 3e-3, "sgd": 0.05}
    settings = fb.optimizers.Optimizer.registry[optimizer](rates.get(optimizer, 0.01))
    model = fb.Model(fb.mlp(4, 16, 3, activation="tanh"), seed=1)
    before = model.loss(X, y, loss)
    result = fb.train(model, X, y, loss=loss, optimizer=settings, epochs=40, batch_size=64)
    assert model.loss(X, y, loss) < before
    assert result.success


def test_a_batch_of_zero_weights_changes_nothing_under_sgd(small):
    X, y = small
    w = np.r_[np.zeros(25), np.ones(25)]
    one, other = fb.Model(fb.mlp(3, 4, 1), "float64"), fb.Model(fb.mlp(3, 4, 1), "float64")
    fb.train(one, X, y, optimizer="sgd", sample_weight=w, batch_size=25, epochs=1, shuffle=False)
    fb.train(other, X[25:], y[25:], optimizer="sgd", batch_size=25, epochs=1, shuffle=False)
    assert np.array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize("clip_norm", [None, 1e300])
def test_divergence_is_an_error_and_leaves_the_last_finished_epoch(small, clip_norm):
    X, y = small
    model = fb.Model(fb.mlp(3, 8, 1), dtype="float32")
    history = []
    with pytest.raises(fb.DivergenceError) as caught:
        fb.train(
            model,
            X,
            y,
            optimizer=fb.SGD(30.0),
            epochs=200,
            clip_norm=clip_norm,
            callbacks=[lambda row, m: history.append(m.parameters.copy())],
        )
    error = caught.value
    assert error.quantity in {"loss", "gradient"}
    assert error.epoch == len(history) + 1
    assert f"epoch {error.epoch}" in str(error)
    assert np.isfinite(model.parameters).all()
    assert np.array_equal(model.parameters, history[-1])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_divergence_within_an_epoch_takes_its_first_steps_back(small, clip_norm):
    """Two batches of the first epoch have changed the parameters; they are finite, and unwanted."""
    X, y = small
    y[25] = 1e200
    model = fb.Model(fb.mlp(3, 4, 1), "float64")
    before = model.parameters.copy()
    with pytest.raises(fb.DivergenceError) as caught:
        fb.train(model, X, y, epochs=3, batch_size=10, shuffle=False, clip_norm=clip_norm)
    assert (caught.value.epoch, caught.value.step) == (1, 3)
    assert np.array_equal(model.parameters, before)


def test_interruption_leaves_a_usable_model_and_is_not_swallowed(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 4, 1), "float64")
    start = model.parameters.copy()

    def interrupt(row, model):
        if row["epoch"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fb.train(model, X, y, epochs=10, callbacks=[interrupt])
    again = fb.Model(fb.mlp(3, 4, 1), "float64")
    fb.train(again, X, y, epochs=4)
    assert np.array_equal(model.parameters, again.parameters)
    assert not np.array_equal(model.parameters, start)


def test_result_reads_well_and_is_plain_data(small):
    X, y = small
    result = fb.train(fb.Model(fb.mlp(3, 4, 1)), X, y, epochs=3, threads=1)
    assert "samples_per_second" in str(result)
    data = result.as_dict()
    assert data["history"][2]["epoch"] == 3
    assert data["validation_loss"] is None
    assert (data["device"], data["threads"], data["steps"]) == ("cpu", 1, 3)
    assert result.samples_per_second > 0


def test_progress_bar_shows_loss_validation_speed_and_time_left(small, capsys):
    X, y = small
    fb.train(fb.Model(fb.mlp(3, 4, 1)), X, y, epochs=3, validation=0.2, progress=True)
    shown = capsys.readouterr().err
    for word in ("3/3", "loss", "validation", "samples/s", "left"):
        assert word in shown


def test_scipy_can_minimise_a_model(small):
    from scipy.optimize import minimize

    X, y = small
    model = fb.Model(fb.mlp(3, 6, 1, activation="tanh"), dtype="float64")

    def objective(parameters):
        model.parameters = parameters
        return model.loss_and_gradient(X, y)

    before = model.loss(X, y)
    found = minimize(objective, model.parameters.copy(), jac=True, method="L-BFGS-B")
    assert found.fun < 0.05 * before
