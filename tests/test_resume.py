"""Runs that were cut and go on: the same bits as those that never stopped."""

import contextlib

import numpy as np
import pytest
from killed_runs import kill_runs

import fastbp as fb
from fastbp.backends.contract import Scalar
from fastbp.backends.cpu.pace import Pace
from fastbp.checkpoint import read_run_file, write_run_file

SECONDS = ("seconds",)  # what differs between two runs of the same bits

RUNS = {
    "adam": {},
    "sgd with momentum, one cycle": {
        "optimizer": fb.SGD(0.05, momentum=0.9),
        "schedule": "one_cycle",
    },
    "nadam, plateaus, validation": {
        "optimizer": fb.NAdam(0.01),
        "schedule": fb.ReduceOnPlateau(patience=1, factor=0.5),
        "validation": 0.2,
    },
    "best parameters": {"patience": 3, "validation": 0.3, "optimizer": fb.Adam(0.1)},
    "averages, clipping": {"ema": 0.9, "clip_norm": 0.5, "validation": 0.2},
    "standardised, as it lies": {"standardize": True, "shuffle": False, "l2": 1e-3},
    "rprop, one batch": {"optimizer": "rprop", "batch_size": 1000},
    "amsgrad": {"optimizer": fb.Adam(amsgrad=True)},
}
NETWORK = fb.mlp(3, 17, 5, 1, activation="tanh")


class Cut(Exception):
    """What ends a run in the middle."""


def trained(path, X, y, *, seed=0, cut_at=None, epochs=7, dtype="float32", **settings):
    """A training whose callback may raise after an epoch."""
    model = fb.Model(NETWORK, dtype=dtype, seed=seed)

    def cut(row, _):
        if row["epoch"] == cut_at:
            raise Cut

    result = fb.train(
        model,
        X,
        y,
        epochs=epochs,
        callbacks=[cut],
        checkpoint=path and fb.Checkpoint(path, every_epochs=1),
        **{"batch_size": 8} | settings,
    )
    return model, result


def assert_same(found, expected):
    """The same parameters, scaling and history to the bit."""
    (model, result), (wanted, whole) = found, expected
    assert np.array_equal(model.parameters, wanted.parameters)
    for name in result.history.dtype.names:
        if name not in SECONDS:
            same = np.array_equal(result.history[name], whole.history[name], equal_nan=True)
            assert same, name
    for name in ("stopped_by", "best_epoch", "epochs", "steps", "loss", "message"):
        assert getattr(result, name) == getattr(whole, name), name
    X = np.linspace(-1, 1, 12).reshape(4, 3)
    assert np.array_equal(model.predict(X), wanted.predict(X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_from_any_epoch(name, dtype, small, tmp_path):
    """Cut after each epoch in turn; the model that goes on has other parameters to begin with."""
    settings = RUNS[name]
    expected = trained(None, *small, dtype=dtype, **settings)
    path = tmp_path / "run.safetensors"
    for epoch in range(1, expected[1].epochs):
        # What a callback interrupts was saved after the epoch before, if there was one.
        with pytest.raises(Cut):
            trained(path, *small, cut_at=epoch, resume=True, dtype=dtype, **settings)
        assert path.exists() == (epoch > 1)
    found = trained(path, *small, seed=9, resume=True, dtype=dtype, **settings)
    assert_same(found, expected)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_from_any_batch(name, small, tmp_path, monkeypatch):
    """Ctrl-C between two batches: the state is saved there, in the middle of an epoch."""
    settings = RUNS[name]
    expected = trained(None, *small, **settings)
    monkeypatch.setattr(Pace, "next_call", lambda self: (False, 1))
    path, due = tmp_path / "run.safetensors", fb.Checkpoint.is_due
    calls_left = [0]

    def interrupted(self, epochs, seconds):
        calls_left[0] -= 1
        if calls_left[0] == 0:
            raise KeyboardInterrupt
        return due(self, epochs, seconds)

    monkeypatch.setattr(fb.Checkpoint, "is_due", interrupted)
    cuts = 0
    for calls in (1, 2, 4, 7, 5, 3, 9):
        calls_left[0] = calls
        with contextlib.suppress(KeyboardInterrupt):  # a run that stops early has ended by then
            trained(path, *small, resume=True, **settings)
        cuts += calls_left[0] == 0
    assert cuts >= 3
    calls_left[0] = -1
    assert_same(trained(path, *small, seed=5, resume=True, **settings), expected)


def test_a_model_interrupted_has_the_parameters_of_the_last_batch(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Pace, "next_call", lambda self: (False, 1))
    calls = []

    def interrupted(self, epochs, seconds):
        calls.append(seconds)
        if len(calls) == 2:  # asked after the second batch and after the third
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(fb.Checkpoint, "is_due", interrupted)
    X, y = small
    path = tmp_path / "run.safetensors"
    model = fb.Model(NETWORK)
    with pytest.raises(KeyboardInterrupt) as found:
        fb.train(model, X, y, batch_size=8, shuffle=False, checkpoint=path)
    assert found.value.__notes__ == [
        f"{path} has the run up to step 3; resume=True goes on from it"
    ]
    other = fb.Model(NETWORK)
    fb.train(other, X[:24], y[:24], batch_size=8, epochs=1, shuffle=False)
    assert np.array_equal(model.parameters, other.parameters)
    assert np.array_equal(fb.load(path).parameters, fb.Model(NETWORK).parameters)  # of no epoch yet


def test_a_finished_run_returns_its_result(small, tmp_path):
    path, seen = tmp_path / "run.safetensors", []
    first = trained(path, *small)
    second = trained(path, *small, seed=3, cut_at=1, resume=True)
    assert_same(second, first)
    longer = trained(path, *small, resume=True, epochs=9)
    assert_same(longer, trained(None, *small, epochs=9))
    stopped = fb.Model(NETWORK)
    stop = [lambda row, _: row["epoch"] == 2]
    keywords = {"checkpoint": tmp_path / "other", "batch_size": 8}
    fb.train(stopped, *small, callbacks=stop, **keywords)
    again = fb.Model(NETWORK)
    seen = []
    result = fb.train(
        again, *small, callbacks=[lambda r, m: seen.append(r)], resume=True, **keywords
    )
    assert (result.stopped_by, result.epochs, seen) == ("callback", 2, [])


OTHERS = {
    "batch_size=8; this one has 9": {"batch_size": 9},
    r"adam\(learning_rate=0.001.*this one has adam\(learning_rate=0.01": {
        "optimizer": fb.Adam(0.01)
    },
    "epochs=7; this one has 5": {"epochs": 5},
    "schedule=constant": {"schedule": "cosine_decay"},
    "seed=0; this one has 1": {"run_seed": 1},
    "validation": {"validation": 0.5},
    "another X": {"X": 1},
    "another y": {"y": 1},
    "another sample_weight": {"sample_weight": np.linspace(1, 2, 50)},
    "another network.*float64": {"dtype": "float64"},
    "another network": {"network": fb.mlp(3, 17, 1)},
    "ema=None; this one has 0.5": {"ema": 0.5},
}


@pytest.mark.parametrize("message", OTHERS)
def test_a_run_of_something_else_is_refused(message, small, tmp_path):
    X, y = small
    path = tmp_path / "run.safetensors"
    trained(path, X, y)
    changed = dict(OTHERS[message])
    model = fb.Model(changed.pop("network", NETWORK), dtype=changed.pop("dtype", "float32"))
    X, y = X + changed.pop("X", 0), y + changed.pop("y", 0)
    settings = {"epochs": 7, "batch_size": 8, "seed": changed.pop("run_seed", 0)} | changed
    before, content = model.parameters.copy(), path.read_bytes()
    with pytest.raises(fb.CheckpointError, match=f"resume: .*{message}"):
        fb.train(model, X, y, checkpoint=path, resume=True, **settings)
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None
    assert path.read_bytes() == content


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_that_is_interrupted_after_its_last_epoch_has_ended(patience, small, tmp_path):
    """The state was saved before anything saw that this was the last one."""
    settings = {"patience": patience, "optimizer": fb.Adam(0.5), "epochs": 40 if patience else 7}
    expected = trained(None, *small, **settings)
    assert expected[1].stopped_by == ("patience" if patience else "epochs")
    path = tmp_path / "run.safetensors"

    def interrupt(row, _):
        if row["epoch"] == expected[1].epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fb.train(
            fb.Model(NETWORK),
            *small,
            batch_size=8,
            checkpoint=path,
            callbacks=[interrupt],
            **settings,
        )
    assert read_run_file(path).notes["stopped_by"] is None
    assert_same(trained(path, *small, resume=True, **settings), expected)


def with_entry(values, index, value):
    """A copy with one number changed."""
    found = values.copy()
    found[index] = value
    return found


FORGED = {
    "notes settings": ([], "says nothing of its settings"),
    "notes data": (None, "says nothing of its settings"),
    "notes best_epoch": (8, "best_epoch: expected one of 7; got 8"),
    "notes seconds": (10**400, "too large to convert to float"),
    "notes training_seconds": (-1.0, "seconds: expected finite numbers of at least 0"),
    "notes stopped_by": ("boredom", "stopped_by: expected how a run ends; got 'boredom'"),
    "history.loss": (None, "it has no 'history.loss'"),
    "history.epoch": (lambda values: values + 1, "history.epoch: expected 1, 2 and so on"),
    "history.seconds": (lambda values: values[:1], r"history.seconds: expected float64 \(7,\)"),
    "watched": (lambda values: values.astype(np.float32), "watched: expected float64"),
    "kept": (lambda values: values[:-1], r"kept: expected float32 \(164,\); got float32 \(163,\)"),
    "best": (lambda values: with_entry(values, 3, np.nan), "best: expected finite numbers"),
    "engine.slot.first": (None, "the tensors of its engine are not there, or others are"),
    "engine.carry": (lambda values: np.zeros(9), "engine.carry: expected float64"),
    **{
        f"engine.scalars {step}": (
            lambda values, step=step: with_entry(values, Scalar.STEP, step),
            "step: expected one after epoch 7; got",
        )
        for step in (-1.0, 48.0, 49.5, 50.0, 1e300, np.nan, np.inf)
    },
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_run_is_one_clear_error(forged, small, tmp_path):
    """Written by someone who knows the format, with a right SHA-256; a kernel would believe it."""
    path = tmp_path / "run.safetensors"
    trained(path, *small)
    content = read_run_file(path)
    change, message = FORGED[forged]
    kind, _, name = forged.partition(" ")
    if kind == "notes":
        content.notes[name] = change
    elif change is None:
        del content.tensors[kind]
    else:
        content.tensors[kind] = change(content.tensors[kind])
    write_run_file(path, content)
    model = fb.Model(NETWORK, seed=9)
    before = model.parameters.copy()
    with pytest.raises(fb.CheckpointError, match=f"cannot be read as a run .*{message}"):
        fb.train(model, *small, epochs=7, batch_size=8, checkpoint=path, resume=True)
    assert np.array_equal(model.parameters, before)


def test_a_schedule_that_knows_the_length_keeps_it(small, tmp_path):
    path = tmp_path / "run.safetensors"
    trained(path, *small, schedule="one_cycle")
    with pytest.raises(fb.CheckpointError, match="epochs=7; this one has 8"):
        trained(path, *small, schedule="one_cycle", resume=True, epochs=8)


def test_a_checkpoint_that_cannot_be_written(small, tmp_path):
    """The old file is whole; the model has what was trained."""
    folder = tmp_path / "gone"
    folder.mkdir()
    path = folder / "run.safetensors"
    model = fb.Model(NETWORK)

    def remove(row, _):
        if row["epoch"] == 3:
            folder.rmdir()

    with pytest.raises(FileNotFoundError, match=r"run\.safetensors"):
        fb.train(model, *small, epochs=3, checkpoint=path, callbacks=[remove])
    assert np.isfinite(model.parameters).all()
    assert not np.array_equal(model.parameters, fb.Model(NETWORK).parameters)


def test_resuming_needs_a_checkpoint(small):
    with pytest.raises(ValueError, match="resume: expected a checkpoint="):
        fb.train(fb.Model(NETWORK), *small, resume=True)
    with pytest.raises(TypeError, match="checkpoint: expected a path"):
        fb.train(fb.Model(NETWORK), *small, checkpoint=3)


def test_a_checkpoint_is_a_model(small, tmp_path):
    path = tmp_path / "run.safetensors"
    model, _ = trained(path, *small, standardize=True)
    assert np.array_equal(fb.load(path).predict(small[0]), model.predict(small[0]))


def test_a_run_that_is_killed_again_and_again(tmp_path):
    """As `python -m benchmarks.reliability` does it 300 times."""
    found = kill_runs(tmp_path, 12)
    assert (found.kills, found.lost, found.unreadable, found.is_same) == (12, 0, 0, True)
    assert found.ended >= 1
    assert sum(found.files.values()) == 12
