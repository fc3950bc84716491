"""The same seed and data give the same bits: any number of threads, fresh process or warm."""

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

import fastbp as fb
from fastbp.backends.cpu import tuning

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_bits
print(test_bits.hash_of_a_training({dtype!r}, threads={threads}, parallel={parallel}))
"""


def hash_of_a_training(dtype, threads=None, parallel=None):
    """Train on several batches, tiles and row blocks; hash parameters, losses and predictions."""
    from fastbp.backends.cpu import engine

    rule = engine.PARALLEL_MULTIPLY_ADDS
    if parallel is not None:  # 0: everything on all threads; infinity: everything serial
        engine.PARALLEL_MULTIPLY_ADDS = 0 if parallel else float("inf")
    try:
        digest = hashlib.sha256()
        inside = [fb.LayerNorm(), fb.Dense(9, "tanh"), fb.Dropout(0.2), fb.Dense(130)]
        layers = [fb.Dense(130), fb.Residual(inside), fb.LayerNorm(), fb.Dropout(0.1), fb.Dense(2)]
        # Units in lanes; rows in lanes, which narrow layers gain from; layers of every kind.
        for network, batch_size in (
            (fb.mlp(33, 130, 67, 2, activation="gelu"), 200),
            (fb.mlp(33, 20, 7, 2, activation="gelu"), 140),
            (fb.Network(33, layers), 200),
        ):
            rng = np.random.Generator(np.random.Philox(3))
            X, y = rng.normal(size=(517, 33)), rng.normal(size=(517, 2))
            model = fb.Model(network, dtype=dtype, seed=2)
            result = fb.train(
                model,
                X,
                y,
                optimizer=fb.Adam(0.003),
                epochs=4,
                batch_size=batch_size,
                validation=0.2,
                clip_norm=1.0,
                l2=1e-3,
                standardize=True,
                sample_weight=rng.uniform(0.1, 1, 517),
                threads=threads,
            )
            digest.update(model.parameters.tobytes())
            digest.update(result.history["loss"].tobytes())
            digest.update(result.history["validation_loss"].tobytes())
            digest.update(result.history["gradient_norm"].tobytes())
            digest.update(model.predict(X).tobytes())
            digest.update(model.jacobian(X).tobytes())
        return digest.hexdigest()
    finally:
        engine.PARALLEL_MULTIPLY_ADDS = rule


def in_a_fresh_process(dtype, threads, parallel, more=None):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "5"}
    environment.update(more or {})
    tests = str(Path(__file__).parent)
    script = SCRIPT.format(tests=tests, dtype=dtype, threads=threads, parallel=parallel)
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_serial_parallel_threads_and_processes_agree(dtype):
    here = hash_of_a_training(dtype, parallel=False)
    assert hash_of_a_training(dtype, parallel=False) == here
    assert hash_of_a_training(dtype) == here
    for threads, parallel in [(1, None), (2, True), (3, True), (5, True), (2, None)]:
        assert in_a_fresh_process(dtype, threads, parallel) == here, threads


def test_the_parallel_driver_really_is_used(monkeypatch):
    from fastbp.backends.cpu import engine

    monkeypatch.setattr(engine, "PARALLEL_MULTIPLY_ADDS", 0)
    plan = fb.plan.build_plan(
        fb.mlp(2, 1), "predict", "float32", 8, fb.backends.choose.geometry("cpu")
    )
    assert engine.Engine(plan, threads=2).parallel
    assert not engine.Engine(plan, threads=1).parallel
    monkeypatch.setattr(engine, "PARALLEL_MULTIPLY_ADDS", plan.multiply_adds + 1)
    assert not engine.Engine(plan, threads=2).parallel


def test_seed_decides_everything_and_other_seeds_differ(small):
    X, y = small

    def parameters(model_seed, train_seed):
        model = fb.Model(fb.mlp(3, 8, 1), seed=model_seed)
        fb.train(model, X, y, epochs=2, batch_size=8, seed=train_seed)
        return model.parameters.tobytes()

    assert parameters(0, 0) == parameters(0, 0)
    assert len({parameters(0, 0), parameters(1, 0), parameters(0, 1)}) == 3


def test_orthogonal_initial_values_do_not_depend_on_threads():
    script = (
        "import hashlib; from fastbp.initializers import initial_values;"
        "print(hashlib.sha256(initial_values('orthogonal', 0, 0, 700, 500).tobytes()).hexdigest())"
    )
    hashes = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(run.stdout)
    assert len(hashes) == 1


@given(
    case=cases(),
    row_block=st.sampled_from([1, 3, 4, 7, 200]),
    tile=st.sampled_from([1, 64, 3000]),
    segment=st.sampled_from([1, 5, 64, 4096]),
)
@settings(max_examples=60)
def test_gradients_do_not_depend_on_blocks_tiles_and_segments(case, row_block, tile, segment):
    """Any division of rows and of parameters gives the same bits."""
    model = case.model("float32")
    X, y = case.inputs(), case.targets()
    expected = model.loss_and_gradient(X, y, case.loss)
    before = tuning.GEOMETRY
    tuning.GEOMETRY = replace(before, row_block=row_block, tile_elements=tile, segment_rows=segment)
    try:
        other = case.model("float32")
        loss, gradient = other.loss_and_gradient(X, y, case.loss)
    finally:
        tuning.GEOMETRY = before
    assert loss == expected[0]
    assert np.array_equal(gradient, expected[1])


# What an x86-64 machine without AVX-512 compiles for: instructions of 2013, 16 registers of 256 bits.
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,"
    "+bmi2,+lzcnt,+movbe,+f16c,+cx16,+64bit",
}
is_x86_with_fma = platform.machine() in {"x86_64", "AMD64"} and bool(
    llvm.get_host_cpu_features().get("fma")
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tile_shapes_vector_widths_and_bounds_checks_agree(dtype):
    """The promise beyond one machine: AVX-512, AVX2 and 128-bit shapes of tiles, the same bits."""
    here = hash_of_a_training(dtype, parallel=False)
    variants = [{"FASTBP_TILE_SHAPE": shape} for shape in tuning.TILE_SHAPES]
    if dtype == "float32":  # test_cache.py has a training of float64 with them
        variants.append({"NUMBA_BOUNDSCHECK": "1"})
    if is_x86_with_fma:
        variants.append(AVX2)
    for environment in variants:
        assert in_a_fresh_process(dtype, 1, None, environment) == here, environment
