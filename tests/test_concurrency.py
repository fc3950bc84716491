"""Threads and processes: the bits of a serial run, one training at a time, no lock left taken."""

import contextlib
import copy
import os
import pickle  # as processes that send one another models do
import signal
import threading

import numpy as np
import pytest
from child_processes import SCENARIOS
from concurrency import COLD, OF_LAYERS, OF_THREADS, available, data, run_scenario, train_in_threads
from profiling import interrupted_after

import fastbp as fb
from fastbp.backends.cpu import engine, workers
from fastbp.backends.cpu.workers import POOL, Pool
from fastbp.initializers import BLAS, INITIALIZERS, keyed_generator
from fastbp.turns import Line


@pytest.mark.parametrize("parallel", [True, False])
def test_trainings_in_8_threads_have_the_bits_of_serial_runs(parallel):
    assert train_in_threads(8, 10, parallel) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - OF_LAYERS - OF_THREADS))
def test_processes(name, tmp_path):
    """Each works, and has the bits of its parent, or is one clear error; none hangs."""
    run_scenario(name, tmp_path if name == COLD else None)


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_parallel_loops_of_a_user_run_beside_trainings(layer):
    """Before, after, in callbacks, and at the same time in another thread."""
    if not available(layer):
        pytest.skip(
            f"Numba finds no {layer} here (tbb: pip install tbb, and its folder of libraries in "
            "LD_LIBRARY_PATH)"
        )
    run_scenario("parallel_loops_of_a_user", NUMBA_THREADING_LAYER=layer)


def test_numbas_layer_of_threads_has_no_influence():
    """Not even where there is none of the name: our workers are threads of the system's own."""
    found = [
        run_scenario("bits", NUMBA_THREADING_LAYER=layer)
        for layer in ("default", "omp", "tbb", "workqueue")
    ]
    assert len({bits for each in found for bits in each}) == 1


# One training at a time.


def make_model():
    return fb.Model(fb.mlp(3, 8, 1, activation="tanh"))


def refused(model, **keywords):
    """Try to train; the model is as it was."""
    before = model.parameters.copy(), model.scaling
    with pytest.raises(RuntimeError, match="model: is being trained by another call"):
        fb.train(model, *data(), epochs=1, standardize=True, **keywords)
    return np.array_equal(model.parameters, before[0]) and model.scaling is before[1]


def test_a_second_training_of_a_model_is_refused():
    model, found = make_model(), []
    expected = make_model()
    fb.train(expected, *data(), epochs=3)

    def callback(row, trained):
        found.append(refused(trained))
        thread = threading.Thread(target=lambda: found.append(refused(model)))
        thread.start()
        thread.join()
        fb.train(copy.copy(model), *data(), epochs=1)
        fb.train(pickle.loads(pickle.dumps(model)), *data(), epochs=1)
        model.predict(data()[0])

    fb.train(model, *data(), epochs=3, callbacks=[callback])
    assert found == [True] * 6
    assert np.array_equal(model.parameters, expected.parameters)
    fb.train(model, *data(), epochs=1)


def interrupting(row, model):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "keywords"),
    [
        (fb.DivergenceError, {"optimizer": fb.SGD(1e38)}),
        (KeyboardInterrupt, {"callbacks": [interrupting]}),
        (ValueError, {"epochs": 0}),
        (ValueError, {"validation": 2.0}),
        (TypeError, {"progress": 1}),
        (ValueError, {"device": "cuda:x"}),
    ],
)
def test_a_model_can_be_trained_again_however_a_training_ends(error, keywords):
    model = make_model()
    with pytest.raises(error):
        fb.train(model, *data(), **keywords)
    assert model._trainings.calls == {}
    model.parameters = make_model().parameters
    fb.train(model, *data(), epochs=1)


def test_what_is_no_model_is_said_to_be_none():
    with pytest.raises(TypeError, match="model: expected a Model; got NoneType"):
        fb.train(None, *data())
    assert fb.train(model=make_model(), X=data()[0], y=data()[1], epochs=1).success


def test_an_interrupt_at_any_point_leaves_nothing_taken(monkeypatch):
    """Neither the model nor the workers."""
    monkeypatch.setattr(engine, "PARALLEL_MULTIPLY_ADDS", 0)
    files = ("turns.py", "workers.py")

    def train(model):
        fb.train(model, *data(), epochs=1, batch_size=32, threads=2)

    train(make_model())
    POOL.threads = None
    for count in range(1, 1000):
        model = make_model()
        POOL.threads = None
        with contextlib.suppress(KeyboardInterrupt), interrupted_after(files, count) as left:
            train(model)
        assert model._trainings.calls == {}
        assert POOL.line.calls == {}
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        if left:
            break
    assert 40 < count < 999
    again, expected = make_model(), make_model()
    train(again)
    assert POOL.threads.is_whole
    fb.train(expected, *data(), epochs=1, batch_size=32, threads=1)
    assert np.array_equal(again.parameters, expected.parameters)


def test_workers_of_which_one_is_not_counted_are_left(monkeypatch):
    """Two of one number would both do its share."""
    pool = Pool()
    threads = pool.threads = workers.Threads()
    create = threads.create

    def interrupted(*arguments):
        create(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.ready(2)
    assert not threads.is_whole
    assert pool.ready(2) is not threads
    assert pool.threads.count == 2


def test_who_comes_first_has_it():
    line = Line()
    first, second, third = object(), object(), object()
    assert line.is_first(first)
    assert not line.is_first(second)
    line.calls.pop(first)
    assert line.is_first(second)
    assert not line.is_first(third)


# Predictions of a few rows while parameters change.


@pytest.fixture
def few():
    """A model that has predicted a row, and that row."""
    model, X = make_model(), np.ones((1, 3), dtype="float32")
    model.predict(X)
    return model, X


def truth(model, X):
    return copy.copy(model).predict(X)


def test_parameters_that_change_while_they_are_loaded_are_seen(few, monkeypatch):
    model, X = few
    loader = model._engines.few.engine
    load = loader.load_parameters

    def changing(flat):
        load(flat)
        model.parameters += 1

    monkeypatch.setattr(loader, "load_parameters", changing)
    model.parameters *= 2
    model.predict(X)
    monkeypatch.undo()
    assert np.array_equal(model.predict(X), truth(model, X))


def test_an_interrupt_while_parameters_are_loaded_is_no_mixture(few, monkeypatch):
    """Not even after the old ones were put back."""
    model, X = few
    before, expected = model.parameters.copy(), model.predict(X)
    loader = model._engines.few.engine
    load = loader.load_parameters

    def interrupted(flat):
        load(flat)
        raise KeyboardInterrupt

    monkeypatch.setattr(loader, "load_parameters", interrupted)
    model.parameters *= 2
    with pytest.raises(KeyboardInterrupt):
        model.predict(X)
    monkeypatch.undo()
    model.parameters = before
    assert np.array_equal(model.predict(X), expected)


def test_an_interrupt_while_the_scaling_is_taken_over_is_no_mixture(few):
    model, X = few
    expected = model.predict(X)
    trained = make_model()
    fb.train(trained, *data(), epochs=1, standardize=True)
    for count in range(1, 9):
        model.scaling = trained.scaling
        with contextlib.suppress(KeyboardInterrupt), interrupted_after("prediction.py", count):
            model.predict(X)
        model.scaling = None
        assert np.array_equal(model.predict(X), expected)


def test_parameters_that_are_nan_are_loaded_too():
    model = make_model()
    model.parameters[:] = np.nan
    assert np.isnan(model.predict(np.ones((1, 3), dtype="float32"))).all()


def test_predictions_beside_a_training_are_those_of_some_epoch_and_then_of_the_last():
    model, X = make_model(), data()[0].astype("float32")
    stop, failed = threading.Event(), []

    def predict():
        while not stop.is_set():
            for rows in (X, X[:1].copy()):
                if not np.isfinite(model.predict(rows)).all():
                    failed.append(rows)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    fb.train(model, *data(), epochs=200, callbacks=[lambda *_: None])
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    for rows in (X, X[:1].copy()):
        assert np.array_equal(model.predict(rows), truth(model, rows))


def test_initial_values_that_need_lapack_take_turns(monkeypatch):
    """How many threads it has is one number for the process; the bits depend on it."""
    taken = []

    def qr(matrix):
        taken.append(BLAS.lock.locked())
        return np.eye(*matrix.shape), np.eye(matrix.shape[1])

    monkeypatch.setattr(np.linalg, "qr", qr)
    INITIALIZERS["orthogonal"](keyed_generator(0, 0), 3, 2)
    assert taken == [True]
    assert not BLAS.lock.locked()
