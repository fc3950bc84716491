"""One model in several threads of Python; Ctrl-C."""

import os
import signal
import threading

import numpy as np
import pytest

import fastbp as fb
from fastbp.backends.cpu.engine import Engine


def test_one_model_in_several_threads(small):
    """Calls take turns; every thread gets its own results."""
    X, _ = small
    model = fb.Model(fb.mlp(3, 40, 2, activation="tanh"))
    inputs = [X + shift for shift in range(6)]
    expected = [model.predict(x) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(200):
            if not np.array_equal(model.predict(inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Interrupted:
    """Counts the driver's calls, and sends a SIGINT, as Ctrl-C does, soon after the first one."""

    def __init__(self, monkeypatch, seconds):
        self.calls, self.done, self.armed = [], 0, True
        original = Engine.run

        def counting(engine, first, last, parallel=None):
            if self.armed:
                self.armed = False
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
            result = original(engine, first, last, parallel)
            self.calls.append(last - first)
            self.done = last
            return result

        monkeypatch.setattr(Engine, "run", counting)


def test_ctrl_c_lands_inside_an_epoch_and_the_model_is_whole(monkeypatch, ctrl_c_works):
    """One long epoch: it is interrupted before its last batch, on a batch boundary."""
    rows, batch_size = 3_000_000, 4
    X = np.random.default_rng(0).normal(size=(rows, 4)).astype("float32")
    model = fb.Model(fb.mlp(4, 32, 32, 1, activation="tanh"))
    fb.train(model, X[:64], X[:64, 0], epochs=1, batch_size=batch_size, optimizer=fb.SGD(1e-3))
    start = model.parameters.copy()
    epochs = []
    count = Interrupted(monkeypatch, 0.4)
    with pytest.raises(KeyboardInterrupt):
        fb.train(
            model,
            X,
            X[:, 0],
            epochs=50,
            batch_size=batch_size,
            optimizer=fb.SGD(1e-3),
            callbacks=[lambda row, model: epochs.append(row)],
        )
    assert epochs == []
    assert 0 < count.done < rows // batch_size
    assert np.isfinite(model.parameters).all()
    assert not np.array_equal(model.parameters, start)
    assert np.isfinite(model.predict(X[:5])).all()


def test_ctrl_c_lands_inside_a_long_prediction(monkeypatch, ctrl_c_works):
    X = np.random.default_rng(0).normal(size=(1_500_000, 8)).astype("float32")
    model = fb.Model(fb.mlp(8, 64, 64, 1, activation="tanh"))
    count = Interrupted(monkeypatch, 1e6)
    count.armed = False
    model.predict(X)
    assert sum(count.calls) == -(-len(X) // 1024)
    assert max(count.calls) < sum(count.calls) / 2

    def predict_until_interrupted():
        for _ in range(200):
            model.predict(X)

    monkeypatch.undo()
    Interrupted(monkeypatch, 0.2)
    with pytest.raises(KeyboardInterrupt):
        predict_until_interrupted()
    monkeypatch.undo()
    assert np.isfinite(model.predict(X[:5])).all()
