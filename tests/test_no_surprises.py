"""The second call compiles nothing and allocates nothing; the GIL is free inside an epoch."""

import threading
import time
import tracemalloc

import numpy as np
import pytest

import fastbp as fb
from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.cpu.machine_code import FUNCTIONS, compiled_count
from fastbp.layer_statistics import LayerStatistics
from fastbp.losses import Mse
from fastbp.plan import build_plan
from fastbp.result import LAYER_FIELDS

ROWS = 700


IN_LANES = (40, 40)  # hidden layers that leave so much to padding that rows lie in lanes


# One of each other kind; a last panel with padding.
INSIDE = [fb.LayerNorm(), fb.Dense(50, "gelu"), fb.Dropout(0.3), fb.Dense(70)]
BLOCKS = [fb.Dropout(0.1), fb.Dense(70, "gelu"), fb.Residual(INSIDE), fb.LayerNorm(), fb.Dense(3)]


def training_engine(parallel, rows=ROWS, hidden=(128, 64), **keywords):
    """`hidden` has the units of hidden layers, or all layers."""
    from fastbp.backends.cpu.engine import Engine

    if hidden is BLOCKS:
        network = fb.Network(20, BLOCKS)
    else:
        network = fb.mlp(20, *hidden, 3, activation="gelu")
    plan = build_plan(
        network,
        "train",
        "float32",
        128,
        geometry("cpu"),
        loss=Mse(),
        optimizer=fb.Adam(),
        l2=1e-3,
        **keywords,
    )
    engine = Engine(plan, 2, parallel=parallel)
    rng = np.random.default_rng(0)
    engine.load_parameters(fb.Model(network).parameters)
    engine.bind("data.inputs", rng.normal(size=(rows, 20)).astype("float32"))
    engine.bind("data.targets", rng.normal(size=(rows, 3)).astype("float32"))
    engine.bind("data.weights", None)
    return engine


def run_epoch(engine, epoch, rates):
    engine.begin_epoch(ROWS, shuffle_seed=1, epoch=epoch, learning_rates=rates, mask_seed=2)
    return engine.run(0, -(-ROWS // 128))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("hidden", [(128, 64), BLOCKS], ids=["dense", "blocks"])
def test_the_second_epoch_allocates_nothing(parallel, clip_norm, hidden):
    """Python's side; tests/test_cache.py shows that the compiled code cannot allocate."""
    engine = training_engine(parallel, hidden=hidden, clip_norm=clip_norm)
    rates = np.full(6, 1e-3)
    run_epoch(engine, 0, rates)
    addresses = {name: slab.ctypes.data for name, slab in engine.buffers.slabs.items()}
    tracemalloc.start()
    try:
        run_epoch(engine, 1, rates)  # warms tracemalloc's own tables
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        engine.run(0, 6)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The call itself makes a few Python objects (integers, a view of an array) of well under 4 KiB
    # in all; a buffer for even one row block would be larger.
    assert peak - start < 4096
    assert engine.ran_parallel == parallel
    assert addresses == {name: slab.ctypes.data for name, slab in engine.buffers.slabs.items()}
    assert engine.buffers.guards_intact()


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_looks_at_the_layers_keep_no_memory(clip_norm):
    """The second one has what it needs: no copy of parameters, gradients or outputs is made."""
    engine = training_engine(False, hidden=(512, 512), clip_norm=clip_norm)
    statistics = LayerStatistics(engine)
    layers = len(list(engine.plan.network.members()))
    row = {name: np.empty(layers) for name in LAYER_FIELDS}
    run_epoch(engine, 0, np.full(6, 1e-3))
    before = engine.snapshot()
    statistics.fill(row, before)
    tracemalloc.start()
    try:
        statistics.fill(row, before)  # warms tracemalloc's own tables
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            statistics.fill(row, before)
        end, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end - start < 4096
    pieces = 8 * np.getbufsize()  # in which NumPy converts float32 to float64 on the way
    assert 3 * pieces < before.nbytes / 4
    assert peak - start < 3 * pieces
    assert np.isfinite(row["layer_update_ratio"]).any()


def test_the_second_training_compiles_nothing(small):
    X, y = small

    def everything():
        model = fb.Model(fb.mlp(3, 8, 1, activation="silu"))
        fb.train(model, X, y, epochs=2, batch_size=16, validation=0.2, standardize=True)
        model.predict(X)
        model.loss_and_gradient(X, y)
        model.jacobian(X)
        model.input_gradient(X, y)

    everything()
    count, compiled = compiled_count(), len(FUNCTIONS.compiled)
    everything()
    # Other shapes, batch sizes, depths and settings are no reason to compile either.
    deeper = fb.Model(fb.mlp(3, 5, 7, 9, 1, activation="silu"))
    fb.train(deeper, X, y, optimizer=fb.Adam(0.1, 0.8), epochs=1, batch_size=9, l2=0.1)
    assert compiled_count() == count
    assert len(FUNCTIONS.compiled) == compiled


def test_only_what_is_used_is_compiled(small):
    """A float32 network of an unused activation adds kernels; the driver stays the same one."""
    X, _ = small
    model = fb.Model(fb.mlp(3, 4, 1, activation=fb.Selu()), dtype="float32")
    model.predict(X)
    assert fb.Selu.law in {function.law for function in FUNCTIONS.addresses}
    before = compiled_count()
    fb.Model(fb.mlp(3, 4, 2, 1, activation=fb.Selu()), dtype="float32").predict(X)
    assert compiled_count() == before


def test_the_gil_is_free_inside_an_epoch():
    """Another thread counts while one call of the driver runs, about as fast as when nothing runs.

    With the GIL held it would count in one slice of the interpreter at most, before or after.
    """
    rows = 300_000
    engine = training_engine(False, rows)
    batches = -(-rows // 128)
    engine.begin_epoch(rows, learning_rates=np.full(batches, 1e-4))
    engine.run(0, 1)
    started, stop, count = threading.Event(), threading.Event(), [0]

    def count_up():
        started.set()
        while not stop.is_set():
            count[0] += 1

    def rate(work):
        before, start = count[0], time.perf_counter()
        work()
        return (count[0] - before) / (time.perf_counter() - start)

    thread = threading.Thread(target=count_up)
    thread.start()
    started.wait()
    try:
        alone = rate(lambda: time.sleep(0.2))
        beside = rate(lambda: engine.run(0, batches))
    finally:
        stop.set()
        thread.join()
    assert beside > 0.1 * alone


@pytest.mark.parametrize(
    ("hidden", "clip_norm"),
    # Of (100, 70) the weights have padding.
    [((128, 64), None), ((128, 64), 1.0), ((100, 70), None), ((100, 70), 1.0), (IN_LANES, None)],
)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poisoned_buffers_do_not_reach_a_result(poison, hidden, clip_norm):
    """Every slab but the parameters, settings and state full of NaN: the same bits come out."""
    rates = np.full(6, 1e-3)
    clean, poisoned = (training_engine(False, hidden=hidden, clip_norm=clip_norm) for _ in range(2))
    assert poisoned.plan.in_lanes == (hidden == IN_LANES)
    at_once = clip_norm is None and not poisoned.plan.in_lanes
    assert ("gradients" in poisoned.buffers.slabs) == (not at_once)
    names = {"activations", "deltas", "gradients", "row_index", "rows", "tile_sums"}
    for name in names & set(poisoned.buffers.slabs):
        slab = poisoned.buffers.slabs[name]
        slab[:] = poison if slab.dtype.kind == "f" else 7
    # The padding of the slots as well; that of the parameters holds zeros by contract.
    parameters = []
    for tensor in poisoned.plan.tensors:
        if tensor.slab == "slots":
            for column, panel in poisoned.buffers.panels(tensor.name):
                panel[:, max(tensor.columns - column, 0) :] = poison
        if tensor.slab in {"parameters", "transposed"}:
            parameters.append(tensor)
    for engine in (clean, poisoned):
        for epoch in range(2):
            status, done = run_epoch(engine, epoch, rates)
            assert (status, done) == (0, 6)
    results = []
    for engine in (clean, poisoned):
        flat = np.empty(engine.plan.network.parameter_count, dtype="float32")
        engine.store_parameters(flat)
        results.append(flat)
    assert np.array_equal(*results)
    assert np.isfinite(results[0]).all()
    assert poisoned.buffers.guards_intact()
    for tensor in parameters:
        assert not poisoned.buffers.read(tensor.name, padding=True)[:, tensor.columns :].any()


def test_no_engine_call_leaves_guards_broken(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 65, 63, 1))
    model.predict(X)
    model.loss(X, y)
    model.loss_and_gradient(X, y)
    model.input_gradient(X, y)
    model.vjp(X, np.ones((50, 1)))
    kept = model._engines.kept.values()
    assert len(kept) >= 5
    assert all(engine.buffers.guards_intact() for engine in kept)


def test_import_of_fastbp_is_light():
    """Only NumPy: no Numba, SciPy, tqdm or safetensors before they are used."""
    import subprocess
    import sys

    script = (
        "import sys, fastbp; fastbp.mlp(2, 3, 1);"
        "print([m for m in ('numba', 'scipy', 'tqdm', 'safetensors', 'llvmlite') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_create_engine_uses_the_rule():
    plan = build_plan(fb.mlp(2, 1), "predict", "float32", 4, geometry("cpu"))
    assert not create_engine(plan).parallel


def test_the_callers_arrays_are_let_go(small):
    """A model keeps no reference to what was predicted or trained with."""
    import sys

    X, y = (np.ascontiguousarray(a, dtype="float32") for a in small)
    model = fb.Model(fb.mlp(3, 4, 1))
    before = sys.getrefcount(X), sys.getrefcount(y)
    model.predict(X)
    model.loss(X, y)
    model.loss_and_gradient(X, y)
    model.input_gradient(X, y)
    model.vjp(X, y)
    fb.train(model, X, y, epochs=2, validation=(X, y))
    assert (sys.getrefcount(X), sys.getrefcount(y)) == before
