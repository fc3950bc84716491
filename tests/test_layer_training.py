"""Training networks of every kind of layer: against the reference with the reference's masks."""

from dataclasses import replace

import numpy as np
import pytest
import reference_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LayeredCase, layered_cases, scaled_error
from test_training import batches

import fastbp as fb
from fastbp.backends.choose import geometry
from fastbp.backends.cpu import engine as cpu_engine
from fastbp.backends.cpu import tuning
from fastbp.losses import Mse
from fastbp.plan import build_plan

LAYERS = (
    ("dropout", 0.2),
    ("dense", 12, "tanh"),
    ("layer_norm", 1e-3),
    (
        "residual",
        (
            ("dense", 17, "gelu"),
            ("dropout", 0.5),
            ("dense", 12, "identity"),
            ("residual", (("layer_norm", 1e-5), ("dropout", 0.3), ("dense", 12, "silu"))),
        ),
    ),
    ("dense", 3, "identity"),
    ("dropout", 0.1),
)
SEED = 2**35 + 5
RATE = 0.002


def case_of(rows, seed=3, layers=LAYERS):
    return LayeredCase(4, layers, "mse", rows, seed)


def trained(case, dtype="float64", **keywords):
    model = case.model(dtype)
    keywords = {"optimizer": fb.SGD(RATE), "epochs": 3, "seed": SEED, **keywords}
    X, y = case.draw_inputs(), case.targets()
    return model, fb.train(model, X, y, loss=case.loss, **keywords)


def compare(case, batch_size, *, epochs=3, shuffled=True, weighted=False, dtype="float64", **more):
    w = case.sample_weight() if weighted else None
    model, result = trained(
        case,
        dtype,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=shuffled,
        sample_weight=w,
        **more,
    )
    more.pop("threads", None)
    keep = shuffled and batch_size < case.rows
    order = batches(case.rows, batch_size, epochs, SEED if keep else None)
    steps = len(order) // epochs
    expected, objectives = reference_layers.train(
        case.layers,
        case.parameters(),
        case.draw_inputs(),
        case.targets(),
        case.loss,
        RATE,
        [order[i * steps : (i + 1) * steps] for i in range(epochs)],
        SEED,
        w,
        **more,
    )
    bound = 1e-10 if dtype == "float64" else 2e-4
    per_epoch = np.reshape(objectives, (epochs, -1)).mean(axis=1)
    assert scaled_error(result.history["loss"], per_epoch) < bound
    assert scaled_error(model.parameters, np.concatenate([p.ravel() for p in expected])) < bound


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 53, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_step_is_the_references(batch_size, shuffled):
    """Gradient and update in one, smaller last batches, one batch of all rows."""
    compare(case_of(53), batch_size, shuffled=shuffled)


@pytest.mark.parametrize(
    "more",
    [
        {"clip_norm": 0.05},
        {"l2": 0.1},
        {"clip_norm": 0.5, "l2": 0.1, "weighted": True},
        {"weighted": True},
        {"threads": 2},
        {"dtype": "float32"},
        {"dtype": "float32", "clip_norm": 0.1},
    ],
    ids=str,
)
def test_clipping_penalties_and_weights(more):
    """The pass that is split where the norm comes first; gains are no weights to a penalty."""
    compare(case_of(53), 16, **more)


@pytest.mark.parametrize(("rows", "batch_size"), [(2500, 2500), (2500, 1400), (1100, 1024)])
def test_batches_of_many_segments(rows, batch_size):
    compare(case_of(rows), batch_size, epochs=2)


@given(case=layered_cases(losses=["mse"]), batch_size=st.sampled_from([3, 16, 64, 500]))
@settings(max_examples=40)
def test_one_epoch_of_random_networks(case, batch_size):
    """A few steps downhill from where the gradient was held to complex step."""
    model, result = trained(case, epochs=1, batch_size=batch_size, optimizer=fb.SGD(1e-3))
    order = batches(case.rows, batch_size, 1, SEED if batch_size < case.rows else None)
    arguments = case.draw_inputs(), case.targets(), case.loss, 1e-3
    expected, objectives = reference_layers.train(
        case.layers, case.parameters(), *arguments, [order], SEED
    )
    assert scaled_error(result.history["loss"], [np.mean(objectives)]) < 1e-9
    assert scaled_error(model.parameters, np.concatenate([p.ravel() for p in expected])) < 1e-9


# The same bits.


@pytest.fixture
def everything_parallel(monkeypatch):
    monkeypatch.setattr(cpu_engine, "PARALLEL_MULTIPLY_ADDS", 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [100, 1500])
def test_threads_and_divisions_change_no_bit(dtype, batch_size, everything_parallel, monkeypatch):
    case = case_of(1733)
    expected, first = trained(case, dtype, batch_size=batch_size, threads=1)
    again, second = trained(case, dtype, batch_size=batch_size, threads=2)
    assert np.array_equal(again.parameters, expected.parameters)
    assert np.array_equal(second.history["loss"], first.history["loss"])
    shapes = replace(tuning.GEOMETRY, row_block=6, segment_rows=64, tile_elements=64)
    monkeypatch.setattr(tuning, "GEOMETRY", shapes)
    divided, _ = trained(case, dtype, batch_size=batch_size, threads=2)
    assert np.array_equal(divided.parameters, expected.parameters)


def test_the_pass_in_one_and_the_split_one_agree():
    """A norm that nothing reaches clips nothing."""
    in_one, _ = trained(case_of(64), batch_size=16, optimizer=fb.Adam(0.01))
    split, _ = trained(case_of(64), batch_size=16, optimizer=fb.Adam(0.01), clip_norm=1e30)
    assert np.array_equal(in_one.parameters, split.parameters)


def test_a_run_that_went_on_has_the_masks_of_one_that_did_not(tmp_path):
    expected, _ = trained(case_of(53), batch_size=16, epochs=4)
    path = tmp_path / "run.safetensors"
    case, common = case_of(53), {"batch_size": 16, "optimizer": fb.SGD(RATE), "seed": SEED}
    arguments = case.draw_inputs(), case.targets()
    fb.train(case.model(), *arguments, epochs=2, checkpoint=path, **common)
    model = case.model()
    fb.train(model, *arguments, epochs=4, checkpoint=path, resume=True, **common)
    assert np.array_equal(model.parameters, expected.parameters)


# The masks themselves, as a training leaves them in its buffers.

ROWS, COLUMNS = 1024, 200


def masks_of_training(rate=0.3, *, seed=1, epoch=0, threads=1, rows=ROWS, segment=1024):
    """What two dropouts, one after the other, keep of a batch: two (rows, columns) of bool."""
    network = fb.Network(COLUMNS, [fb.Dropout(rate), fb.Dense(COLUMNS, "relu"), fb.Dropout(rate)])
    shapes = replace(geometry("cpu"), segment_rows=segment)
    plan = build_plan(network, "train", "float32", rows, shapes, loss=Mse(), optimizer=fb.SGD())
    engine = cpu_engine.Engine(plan, threads, parallel=threads > 1)
    engine.load_parameters(fb.Model(network).parameters)
    X = np.ones((rows, COLUMNS), dtype="float32")
    engine.bind("data.inputs", X)
    engine.bind("data.targets", X)
    engine.bind("data.weights", None)
    engine.begin_epoch(rows, learning_rates=np.zeros(1), epoch=epoch, mask_seed=seed)
    engine.run_in_calls(1)
    first = engine.buffers.read("0.output")
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / (1 - rate))}
    read = [first, engine.buffers.read("2.output")]
    kept = engine.buffers.read("1.output") != 0  # what relu leaves to drop
    return read[0] != 0, read[1] != 0, kept


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.95])
def test_the_share_of_what_is_dropped(rate):
    """In all, in each row and in each column, within six standard deviations."""
    kept, _, _ = masks_of_training(rate)
    for axis in (None, 0, 1):
        share = 1 - kept.mean(axis=axis)
        count = kept.size // share.size
        assert np.abs(share - rate).max() < 6 * np.sqrt(rate * (1 - rate) / count)


def independent(a, b, rate=0.3):
    """Whether two masks agree as often as two that know nothing of each other."""
    agreement = rate**2 + (1 - rate) ** 2
    deviation = np.sqrt(agreement * (1 - agreement) / a.size)
    return abs((a == b).mean() - agreement) < 6 * deviation


def test_masks_differ_between_layers_rows_columns_epochs_and_seeds():
    mask, later, left = masks_of_training()
    assert independent(mask[left], later[left])
    assert independent(mask[1:], mask[:-1])
    assert independent(mask[:, 1:], mask[:, :-1])
    assert independent(mask[1:, 1:], mask[:-1, :-1])
    half = ROWS // 2
    assert independent(mask[:half], mask[half:])
    for other in ({"epoch": 1}, {"epoch": 2**32}, {"seed": 2}, {"seed": 2**32 + 1}):
        assert independent(mask, masks_of_training(**other)[0]), other


def test_masks_are_the_same_for_any_threads_and_segments():
    mask, later, _ = masks_of_training()
    for same in ({}, {"threads": 2}):
        first, second, _ = masks_of_training(**same)
        assert np.array_equal(first, mask)
        assert np.array_equal(second, later)
    # The slabs hold the last segment: rows 768 to 1023.
    first, _, _ = masks_of_training(segment=256)
    assert np.array_equal(first, mask[768:])
    expected = reference_layers.kept(1, 0, 0, range(ROWS), COLUMNS, 0.3)
    assert np.array_equal(mask, expected)


# Where nothing is dropped.


def without_dropout(layers):
    return tuple(
        ("residual", without_dropout(layer[1])) if layer[0] == "residual" else layer
        for layer in layers
        if layer[0] != "dropout"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_dropped_outside_training(dtype):
    case, plain = case_of(40), case_of(40, layers=without_dropout(LAYERS))
    model, other = case.model(dtype), plain.model(dtype)
    X, y = case.draw_inputs(), case.targets()
    assert np.array_equal(model.parameters, other.parameters)
    assert np.array_equal(model.predict(X), other.predict(X))
    assert np.array_equal(model.predict(X[:1]), other.predict(X[:1]))
    assert model.loss(X, y) == other.loss(X, y)
    assert np.array_equal(model.loss_and_gradient(X, y)[1], other.loss_and_gradient(X, y)[1])
    assert np.array_equal(model.jacobian(X), other.jacobian(X))


def test_nothing_is_dropped_in_validation():
    case = case_of(40)
    X, y = case.draw_inputs(), case.targets()
    model = case.model()
    result = fb.train(
        model, X, y, epochs=2, validation=(X, y), optimizer=fb.SGD(1e-300), batch_size=8
    )
    assert np.allclose(result.history["validation_loss"], model.loss(X, y), rtol=1e-14)
    assert (np.abs(result.history["loss"] / model.loss(X, y) - 1) > 0.01).all()


@pytest.mark.parametrize("batch_size", [16, 53])
def test_a_rate_of_zero_is_no_layer(batch_size):
    layers = (("dropout", 0.0), *without_dropout(LAYERS), ("dropout", 0.0))
    expected, _ = trained(case_of(53, layers=without_dropout(LAYERS)), batch_size=batch_size)
    found, _ = trained(case_of(53, layers=layers), batch_size=batch_size)
    assert np.array_equal(found.parameters, expected.parameters)


@pytest.mark.parametrize("name", fb.optimizers.Optimizer.names())
def test_every_optimizer_moves_gains_and_biases(name):
    case = case_of(40)
    model, _ = trained(case, "float32", optimizer=name, batch_size=8, epochs=2)
    before = case.model("float32")
    for key, values in model.weights.items():
        assert np.isfinite(values).all()
        assert not np.array_equal(values, before.weights[key]), key


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_leaves_gains_alone(name):
    """All targets are met already: only a decay would change a parameter."""
    network = fb.Network(3, [fb.LayerNorm(), fb.Dense(2)])
    model = fb.Model(network, dtype="float64")
    X = np.random.default_rng(0).normal(size=(20, 3))
    optimizer = fb.optimizers.Optimizer.registry[name](0.1, weight_decay=0.5)
    fb.train(model, X, model.predict(X), optimizer=optimizer, epochs=1, batch_size=20)
    assert (model.weights["0.gain"] == 1).all()
    assert not model.weights["0.bias"].any()
