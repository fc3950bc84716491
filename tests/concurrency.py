"""Threads beside trainings, and what scenarios of threads and processes share.

Scenarios run in a process of their own, since they fork and leave threads behind: `run_scenario`
starts one. Those of processes are in `child_processes`; tests run them, and
``python -m benchmarks.reliability`` does so at full size.
"""

import concurrent.futures
import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import fastbp as fb
from fastbp.backends.cpu import engine, workers

ROWS = 96
SECONDS = 60  # for a scenario
SECONDS_INSIDE, SECONDS_OF_A_CHILD = 50, 30  # after which it says where it is
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


def refusals_beside_a_training(attempts=20):
    """Train a model in one thread and try to in another; how often that was refused, and the bits.

    Returns the number of refusals, and whether the model is that of a training nobody disturbed.
    """
    X, y = data()
    model, alone = (fb.Model(fb.mlp(3, 16, 1, activation="tanh")) for _ in range(2))
    expected = trained(model=alone, epochs=5)
    began, end, found = threading.Event(), threading.Event(), []

    def callback(row, model):
        began.set()
        if row["epoch"] == 5:
            end.wait(SECONDS_OF_A_CHILD)

    thread = threading.Thread(
        target=lambda: found.append(trained(model=model, epochs=5, callbacks=[callback]))
    )
    thread.start()
    began.wait(SECONDS_OF_A_CHILD)
    refused = 0
    for _ in range(attempts):
        try:
            fb.train(model, X, y, epochs=1, standardize=True)
        except RuntimeError as error:
            refused += "is being trained by another call" in str(error)
    end.set()
    thread.join()
    return refused, found == [expected]


@scenario
def trainings_in_8_threads():
    for parallel in (True, False):
        assert train_in_threads(8, 10, parallel) == []


@scenario
def one_model_in_two_threads():
    for parallel in (True, False):
        drive(parallel)
        assert refusals_beside_a_training(20) == (20, True)


# For scenarios of either kind.


def in_child(function):
    """Run a function in a forked child, which must end well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(SECONDS_OF_A_CHILD)
            function()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        os.kill(os.getpid(), signal.SIGALRM)  # its hanging is that of the scenario
    assert status == 0


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


def compared(wanted):
    """For a child of any kind: whether its bits are those of the parent."""
    drive(True)
    return trained() == wanted


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


# Numba's own threads beside ours.


@scenario
def parallel_loops_of_a_user():
    """A user's prange in the same process; the layer is that of NUMBA_THREADING_LAYER."""
    import numba

    @numba.njit(parallel=True)
    def squares(x):
        out = np.empty_like(x)
        for i in numba.prange(x.size):
            out[i] = x[i] * x[i]
        return out

    x = np.arange(1000.0)

    def both():
        assert np.array_equal(squares(x), x * x)
        check()
        assert np.array_equal(squares(x), x * x)

    wanted = expected()
    both()
    layer = numba.threading_layer()
    assert layer == os.environ["NUMBA_THREADING_LAYER"]
    in_child(check)
    if layer == "workqueue":  # the others do not survive a fork, or say that they do not
        in_child(both)
    with Beside(lambda began: (check(), began.set())):
        for _ in range(200):
            assert np.array_equal(squares(x), x * x)
    inside = []
    assert trained(callbacks=[lambda row, model: inside.append(squares(x)[-1])]) == expected()
    assert inside == [x[-1] ** 2] * 3
    assert compared(wanted)


@scenario
def bits():
    """Print the bits of a training in parallel and of one that is serial."""
    for parallel in (True, False):
        drive(parallel)
        print(trained().hex())


# The parent's side.


class Hang(AssertionError):
    """A scenario that did not come to its end in time."""


OF_THREADS = {"trainings_in_8_threads", "one_model_in_two_threads"}
OF_LAYERS = {"bits", "parallel_loops_of_a_user"}
LAYERS = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}  # Numba's, of threads
COLD = "forks_while_another_thread_compiles"  # its cache of kernels has to be empty


def available(layer):
    """Whether Numba has a layer of threads here; TBB comes apart, OpenMP from the system."""
    check = f"from numba.np.ufunc import {LAYERS[layer]}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)
    return done.returncode == 0


def run_scenario(name, cache=None, **settings):
    """Run a scenario in a process of its own, with all that it started; what it printed.

    Raises `Hang`, or another AssertionError with what the process said.
    """
    environment = {
        **os.environ,
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join([str(Path(fb.__file__).parents[1]), *sys.path[1:]]),
        **settings,
    }
    if cache is not None:
        environment["FASTBP_CACHE_DIR"] = str(cache)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("child_processes.py")), name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        raise Hang(f"{name}: no end after {SECONDS} seconds: {errors}") from None
    if process.returncode == -signal.SIGALRM:
        raise Hang(f"{name}: {errors}")
    lines = output.splitlines()
    assert (process.returncode, lines[-1:]) == (0, ["done"]), f"{name}: {errors}"
    return lines[:-1]
