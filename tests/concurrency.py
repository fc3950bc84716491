"""Threads and processes beside trainings: what tests run, and what a benchmark may run at full size.

Scenarios run in a process of their own, since they fork and leave threads behind::

    python tests/concurrency.py NAME

which prints "done" at its end.
"""

import concurrent.futures
import copy
import faulthandler
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest

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


@scenario
def forks_before_and_after_a_training():
    drive(True)
    in_child(lambda: trained(1))
    expected()
    in_child(check)
    in_child(lambda: in_child(check))
    check()


def forks_beside_training(parallel):
    expected()
    drive(parallel)
    X, y = data()
    model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))

    def work(began):
        fb.train(
            model, X, y, epochs=400, batch_size=20, threads=2, callbacks=[lambda *_: began.set()]
        )

    with Beside(work):
        for i in range(6):
            time.sleep(0.003 * i)
            in_child(lambda: serves(model))


@scenario
def forks_in_the_middle_of_another_threads_training():
    forks_beside_training(True)


@scenario
def forks_in_the_middle_of_another_threads_serial_training():
    forks_beside_training(False)


@scenario
def forks_while_another_thread_predicts():
    expected()
    X, _ = data()
    model = fb.Model(fb.mlp(3, 64, 64, 1))
    many = np.tile(X, (300, 1)).astype("float32")

    def work(began):
        model.predict(many)
        model.predict(X[:1].astype("float32"))
        began.set()

    with Beside(work):
        for _ in range(6):
            in_child(lambda: serves(model))


@scenario
def forks_while_locks_are_held():
    """Every lock of ours, held by a thread that no child has."""
    from fastbp.backends.cpu.machine_code import FUNCTIONS
    from fastbp.initializers import BLAS

    expected()
    X, y = data()
    model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
    model.predict(X[:1].astype("float32"))
    held, end = threading.Event(), threading.Event()

    def hold():
        with model._engines.lock, BLAS.lock, model._engines.few.lock:
            assert workers.POOL.line.is_first("held")
            assert model._trainings.is_first("held")
            held.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child():
        serves(model)
        fb.train(
            fb.Model(fb.Network(3, [fb.Dense(4, initializer="orthogonal"), fb.Dense(1)])),
            X,
            y,
            epochs=1,
        )

    in_child(child)
    end.set()
    thread.join()
    assert not FUNCTIONS.is_cut_off


@scenario
def forks_while_another_thread_compiles():
    """The fork waits until the function is compiled. The cache of this process must be empty."""
    from fastbp.backends.cpu.machine_code import FUNCTIONS, bind

    names = ["gather_inputs", "store_rows", "multiply_cotangent"]
    thread = threading.Thread(target=lambda: [bind(name, "float32") for name in names])
    thread.start()
    while FUNCTIONS.lock.acquire(blocking=False):
        FUNCTIONS.lock.release()
        time.sleep(0.001)

    def child():
        assert 0 < len(FUNCTIONS.addresses) < len(names)  # the first was ended, others were not
        for name in names:
            bind(name, "float32")

    in_child(child)
    thread.join()
    assert len(FUNCTIONS.addresses) == len(names)


@scenario
def forks_while_a_user_compiles():
    """Numba's locks stay taken in the child: what is there goes on, the rest is an error."""
    from numba.core.compiler_lock import global_compiler_lock

    expected()
    held, end = threading.Event(), threading.Event()

    def hold():
        with global_compiler_lock:
            held.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child():
        assert trained() == expected()
        with pytest.raises(RuntimeError, match="forked while another thread was compiling"):
            trained(loss="log_cosh")
        assert trained() == expected()

    in_child(child)
    end.set()
    thread.join()
    in_child(lambda: trained(loss="log_cosh"))


@scenario
def forks_inside_a_callback():
    expected()
    drive(True)

    def fork(row, model):
        in_child(lambda: serves(model))
        process = multiprocessing.get_context("fork").Process(target=serves, args=(model,))
        process.start()
        process.join()
        assert process.exitcode == 0

    assert trained(callbacks=[fork]) == expected()


@scenario
def forks_in_the_middle_of_an_epoch():
    """A handler of signals forks, and parent and child both go on with the training."""
    X = np.random.default_rng(0).normal(size=(100_000, 3)).astype("float32")

    original = engine.Engine.run

    def run(handler):
        calls = []

        def signalling(self, *arguments):
            calls.append(arguments)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            return original(self, *arguments)

        model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
        before = signal.signal(signal.SIGUSR1, handler)
        engine.Engine.run = signalling
        fb.train(model, X, X[:, 0], epochs=1, batch_size=8, threads=2)
        engine.Engine.run = original
        signal.signal(signal.SIGUSR1, before)
        assert len(calls) > 3
        return model.parameters.tobytes()

    for parallel in (False, True):
        drive(parallel)
        wanted, children = run(signal.SIG_IGN), []

        def fork(*_, children=children):
            children.append(os.fork())

        assert run(fork) == wanted
        (child,) = children
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@scenario
def forks_in_a_thread():
    expected()
    failed = []

    def work():
        try:
            in_child(check)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    check()


@scenario
def children_end_while_their_workers_wait():
    expected()
    for end in (lambda: None, lambda: sys.exit(0), lambda: os._exit(0)):
        process = multiprocessing.get_context("fork").Process(
            target=lambda end=end: (check(), end())
        )
        process.start()
        process.join()
        assert process.exitcode == 0


# Pools of processes.


def compared(wanted):
    """For a child of any kind: whether its bits are those of the parent."""
    drive(True)
    return trained() == wanted


def ran_in_parallel(_):
    """For a child of any kind: whether it has workers of its own."""
    return compared(trained()) and workers.POOL.threads.count == 2


def sent(model):
    """For a child of any kind: train what was sent, and send it back."""
    trained(model=model)
    return model


def nested(method, wanted):
    """For a child of any kind: a pool of its own."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(compared, (wanted,)) and compared(wanted)


def processes(method):
    context = multiprocessing.get_context(method)
    wanted = expected()
    drive(True)
    assert compared(wanted)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert all(pool.map(compared, [wanted] * 3))
        assert all(pool.map(ran_in_parallel, range(3)))
        model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
        model.predict(data()[0])
        back = pool.submit(sent, model).result()
        assert back.parameters.tobytes() == wanted
        assert np.array_equal(
            back.predict(data()[0]), pickle.loads(pickle.dumps(back)).predict(data()[0])
        )
        assert pool.submit(nested, method, wanted).result()
    with Beside(lambda began: (trained(), began.set())):
        process = context.Process(target=compared, args=(wanted,))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert trained(model=back) != wanted


@scenario
def pools_by_fork():
    processes("fork")


@scenario
def pools_by_forkserver():
    processes("forkserver")


@scenario
def pools_by_spawn():
    processes("spawn")


@scenario
def joblib_and_loky():
    from joblib import Parallel, delayed

    wanted = expected()
    for backend in ("loky", "multiprocessing", "threading"):
        found = Parallel(n_jobs=2, backend=backend)(delayed(compared)(wanted) for _ in range(4))
        assert all(found), backend
    model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
    (back,) = Parallel(n_jobs=2)([delayed(sent)(model)])
    assert back.parameters.tobytes() == wanted


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


if __name__ == "__main__":
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(50)
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")
    SCENARIOS[sys.argv[1]]()
    print("done")
