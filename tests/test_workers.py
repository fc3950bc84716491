"""The worker threads: one job at a time, no core used in between, no signal taken, a quiet end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastbp as fb
from fastbp.backends.choose import geometry
from fastbp.backends.contract import Scalar, Status
from fastbp.backends.cpu import workers
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.processor import available_threads
from fastbp.backends.cpu.workers import POOL, Pool
from fastbp.losses import Mse
from fastbp.plan import build_plan

ROWS, BATCH = 301, 64  # the last batch has an odd number of rows, which are shared out in pairs
BATCHES = -(-ROWS // BATCH)


def make_engine(threads, rate=1e-3, batch=BATCH, **keywords):
    """A training engine that may run in parallel, at the beginning of an epoch."""
    network = fb.mlp(5, 40, 21, 2, activation="relu")
    plan = build_plan(
        network, "train", "float64", batch, geometry("cpu"), loss=Mse(), optimizer=fb.Adam(),
        **keywords,
    )  # fmt: skip
    engine = Engine(plan, threads, parallel=True)
    rng = np.random.default_rng(1)
    engine.load_parameters(fb.Model(network, dtype="float64").parameters)
    engine.bind("data.inputs", rng.normal(size=(ROWS, 5)))
    engine.bind("data.targets", rng.normal(size=(ROWS, 2)))
    engine.bind("data.weights", None)
    engine.begin_epoch(ROWS, shuffle_seed=0, learning_rates=np.full(ROWS, rate))
    return engine


@contextlib.contextmanager
def busy(pool):
    """The workers are lent to another call."""
    call = object()
    assert pool.line.is_first(call)
    yield
    pool.line.calls.pop(call)


def result_of(engine):
    flat = np.empty(engine.plan.network.parameter_count)
    engine.store_parameters(flat)
    return flat.tobytes() + engine.scalars.tobytes()


@pytest.mark.parametrize("keywords", [{}, {"clip_norm": 0.1}, {"l1": 1e-3, "clip_value": 0.01}])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_workers_gives_the_same_bits(threads, keywords):
    """More workers than cores, too; parameters, losses and norms."""
    one, many = make_engine(1, **keywords), make_engine(threads, **keywords)
    for first, last in [(0, 1), (1, 3), (3, BATCHES)]:
        for engine in (one, many):
            assert engine.run(first, last) == (Status.DONE, last - first)
    assert many.ran_parallel
    assert not one.ran_parallel
    assert result_of(one) == result_of(many)


def test_batches_in_segments_of_a_few_rows(monkeypatch):
    from dataclasses import replace

    from fastbp.backends.cpu import tuning

    few = replace(tuning.GEOMETRY, segment_rows=24, tile_elements=64)
    monkeypatch.setattr(tuning, "GEOMETRY", few)
    one, many = make_engine(1, batch=100), make_engine(3, batch=100)
    for engine in (one, many):
        assert engine.run(0, 3) == (Status.DONE, 3)
    assert result_of(one) == result_of(many)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("batch", [0, 2, BATCHES - 1])
def test_all_workers_stop_where_training_diverges(batch, clip_norm):
    """The same status after the same batch, and the workers are ready for the next job."""
    found = []
    for threads in (1, 3):
        engine = make_engine(threads, clip_norm=clip_norm)
        engine.begin_epoch(ROWS, learning_rates=np.full(ROWS, 1e-3))
        engine.bound["data.targets"][batch * BATCH] = np.inf
        found.append((*engine.run(0, BATCHES), engine.scalars[Scalar.STEP]))
    assert found[0] == found[1] == (Status.LOSS_NOT_FINITE, batch, batch)
    again = make_engine(3)
    assert again.run(0, BATCHES) == (Status.DONE, BATCHES)
    assert again.ran_parallel


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("batch", [0, 2, BATCHES - 1])
def test_all_workers_stop_where_the_gradient_overflows(batch, clip_norm):
    """The loss is finite in float64, the sum of the gradient's squares is not."""
    found = []
    for threads in (1, 3):
        engine = make_engine(threads, clip_norm=clip_norm)
        engine.begin_epoch(ROWS, learning_rates=np.full(ROWS, 1e-3))
        engine.bound["data.targets"][batch * BATCH, 0] = 1e153
        engine.bound["data.inputs"][batch * BATCH] = 1e10
        found.append(engine.run(0, BATCHES))
    assert found[0] == found[1]
    assert found[0] == (Status.GRADIENT_NOT_FINITE, batch)


def test_a_call_runs_serially_while_the_workers_are_busy():
    expected = make_engine(2)
    expected.run(0, BATCHES)
    assert expected.ran_parallel
    engine = make_engine(2)
    with busy(POOL):
        assert engine.run(0, BATCHES) == (Status.DONE, BATCHES)
    assert not engine.ran_parallel
    assert result_of(engine) == result_of(expected)
    # The time of such a call is no time of the parallel driver.
    engine.begin_epoch(ROWS, shuffle_seed=0, learning_rates=np.full(ROWS, 1e-3))
    with busy(POOL):
        engine.run_in_calls(BATCHES)
    assert engine.pace.speeds[True].each is None


def test_trainings_in_several_threads_of_python_at_once():
    """They take the workers in turn, or run without; every one gets its own bits."""
    expected = make_engine(1)
    expected.run(0, BATCHES)
    wanted, found = result_of(expected), []

    def train():
        for _ in range(20):
            engine = make_engine(2)
            for batch in range(BATCHES):
                engine.run(batch, batch + 1)
            found.append(result_of(engine) == wanted)

    threads = [threading.Thread(target=train) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 60


@pytest.mark.parametrize("missing", ["pthread_create", "usleep"])
def test_a_system_without_such_threads_runs_serially(missing, monkeypatch):
    class Library:
        def __init__(self, name):
            self.real = library(name)

        def __getattr__(self, name):
            if name == missing:
                raise AttributeError(name)
            return getattr(self.real, name)

    library = workers.ctypes.CDLL
    monkeypatch.setattr(workers.ctypes, "CDLL", Library)
    pool = Pool()
    monkeypatch.setattr("fastbp.backends.cpu.engine.POOL", pool)
    engine = make_engine(2)
    assert engine.run(0, BATCHES) == (Status.DONE, BATCHES)
    assert not engine.ran_parallel
    assert not pool.is_usable


def test_threads_that_cannot_be_made_are_no_error(monkeypatch):
    pool = Pool()
    monkeypatch.setattr("fastbp.backends.cpu.engine.POOL", pool)
    threads = pool.threads = workers.Threads()
    monkeypatch.setattr(threads, "create", lambda *_: 11)  # EAGAIN
    engine = make_engine(2)
    assert engine.run(0, BATCHES) == (Status.DONE, BATCHES)
    assert not engine.ran_parallel


def test_waiting_workers_use_no_core():
    engine = make_engine(4)
    engine.run(0, BATCHES)
    assert engine.ran_parallel
    time.sleep(0.1)  # they have given up looking
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_leave_signals_to_python():
    """Every thread but the main one and those of other libraries has SIGINT blocked."""

    def threads():
        return {path.name for path in Path("/proc/self/task").iterdir()}

    pool = Pool()
    pool.ready(1)
    before = threads()
    pool.ready(3)
    made = threads() - before
    assert len(made) == 2
    for name in made:
        status = Path(f"/proc/self/task/{name}/status").read_text(encoding="utf-8")
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
        assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGINT not in mask


ENDS = """
import logging, threading, time
logging.disable()  # of the line about compiling
import numpy as np
import fastbp as fb
from fastbp.backends.cpu import engine

engine.PARALLEL_MULTIPLY_ADDS = 0
X = np.linspace(-1, 1, 300_000).reshape(100_000, 3)

def work(epochs):
    model = fb.Model(fb.mlp(3, 9, 1), seed=1)
    fb.train(model, X, X[:, 0], epochs=epochs, batch_size=50, threads=2)

work(1)
{ending}
"""


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "threading.Thread(target=work, args=(10**6,), daemon=True).start(); time.sleep(0.2)",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
    ],
)
def test_the_interpreter_ends_whatever_the_workers_do(ending):
    done = subprocess.run(
        [sys.executable, "-c", ENDS.format(ending=ending)],
        env={**os.environ, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_how_many_threads_there_are(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    assert available_threads() == 7
    for nonsense in ("", "many", "-1", "0"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", nonsense)
        assert available_threads() == len(os.sched_getaffinity(0))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of threads")
def test_workers_may_run_on_every_core_of_the_process():
    """They begin on a core of their own, and are free to move afterwards."""
    script = """
import os
from pathlib import Path
import numpy as np, fastbp as fb
before = {path.name for path in Path("/proc/self/task").iterdir()}
X = np.linspace(-1, 1, 512 * 8).reshape(512, 8)
model = fb.Model(fb.mlp(8, 64, 64, 1, activation="tanh"))
from fastbp.backends.cpu import engine
engine.PARALLEL_MULTIPLY_ADDS = 0
fb.train(model, X, X[:, :1], epochs=2, threads=2)
made = [path for path in Path("/proc/self/task").iterdir() if path.name not in before]
masks = [os.sched_getaffinity(int(path.name)) for path in made]
assert os.sched_getaffinity(0) in masks, masks
assert all(mask == os.sched_getaffinity(0) for mask in masks), masks
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
