"""Threads and processes beside trainings: what the scenarios of `forks` and `pools` have in common."""

import concurrent.futures
import copy
import functools
import os
import signal
import sys
import threading

import numpy as np

import fastbp as fb
from fastbp.backends.cpu import engine, workers

ROWS = 96
SCENARIOS = {}


def scenario(function):
    """Enter a function under its own name."""
    SCENARIOS[function.__name__] = function
    return function


def data():
    """X (96, 3) and y (96,)."""
    X = np.random.default_rng(5).normal(size=(ROWS, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1]


def drive(parallel):
    """Have all trainings of this process run in parallel where the workers are free, or serially."""
    engine.PARALLEL_MULTIPLY_ADDS = 0 if parallel else 2**62


def trained(seed=0, epochs=3, threads=2, model=None, **keywords):
    """The bytes of a model's parameters after some epochs."""
    X, y = data()
    if model is None:
        model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"), seed=seed)
    fb.train(model, X, y, epochs=epochs, batch_size=20, seed=seed, threads=threads, **keywords)
    return model.parameters.tobytes()


def train_in_threads(threads=8, models=10, parallel=True):
    """Each thread trains so many models; the seeds whose bits are not those of a serial run."""
    before = engine.PARALLEL_MULTIPLY_ADDS
    try:
        drive(False)
        expected = [trained(seed) for seed in range(models)]
        drive(parallel)
        wrong = []

        def work(shift):
            for i in range(models):
                seed = (i + shift) % models
                if trained(seed) != expected[seed]:
                    wrong.append(seed)

        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return wrong
    finally:
        engine.PARALLEL_MULTIPLY_ADDS = before


# Children.


def in_child(function):
    """Run a function in a forked child, which must end well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # says where it was
            function()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@functools.cache
def expected():
    """What `trained` gives in this process, which by this has trained."""
    return trained()


def check():
    """Train, predict and differentiate here, in parallel; the bits are those of the parent."""
    drive(True)
    assert trained() == expected()
    X, y = data()
    model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
    model.predict(X)
    model.predict(X[:1])
    model.loss_and_gradient(X, y)
    assert workers.POOL.threads is not None
    assert workers.POOL.threads.count == 2


def serves(model):
    """Check, and use a model that another thread of the parent was using."""
    check()
    X, y = data()
    copied = copy.copy(model)
    for x in (X, X[:1].copy()):
        assert np.array_equal(model.predict(x), copied.predict(x))
    fb.train(model, X, y, epochs=1, batch_size=20)


class Beside:
    """A thread that does something again and again while the block runs."""

    def __init__(self, work):
        self.work = work
        self.began, self.stop = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            self.work(self.began)

    def __enter__(self):
        self.thread.start()
        assert self.began.wait(30)
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()
