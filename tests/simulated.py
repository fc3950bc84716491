"""A simulated GPU behind ``device="cuda"``, for tests of the whole way from `train` to kernels.

With FASTBP_TEST_GPU=1 in the environment it is the machine's own first GPU instead. The simulator is
imported where a simulated device is made: it needs greenlet, which a machine with a GPU may lack.
"""

import os

import numpy as np
import pytest
from strategies import scaled_error

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.cuda import program, tuning

WAYS = ["resident", "meeting", "fused", "layered"]  # resident as one block, and as some that meet
ON_GPU = os.environ.get("FASTBP_TEST_GPU") == "1"

# Of the same training on both. One step of float64 rounds to some 1e-16; a few steps of Adam let
# that grow. A number of float32 is off by 2**-24 = 6e-8, and a gradient, a sum of some hundred
# products through three layers, by some 2e-7 of the largest in it. Adam divides a gradient by its
# own size: one that is a hundredth of the largest is off by 2e-5 of itself, and moves its parameter
# by the rate of 0.01 times as much, 2e-7 a step; six steps make some 1e-6. Measured: 2e-7.
BOUND = {"float64": 1e-12, "float32": 2e-6}


def simulated_device(**options):
    from simulator import SimulatedDevice

    return SimulatedDevice(**{"order": "random"} | options)


def simulated_only(reason):
    """Mark a test that would fail or prove nothing on a GPU, whatever the kernels do."""
    return pytest.mark.skipif(ON_GPU, reason=f"for a simulated device: {reason}")


@pytest.fixture
def gpu(monkeypatch):
    """The device that every engine of the test gets."""
    if ON_GPU:
        reason = choose.why_not_cuda(0)
        if reason:  # not simulated after all: that would pass for a test of the GPU
            pytest.skip(f"FASTBP_TEST_GPU is 1, and there is no GPU: {reason}")
        return choose.cuda_device("cuda:0")
    device = simulated_device()
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "")
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    return device


@pytest.fixture
def racing(gpu, monkeypatch):
    """The same, and the simulated device raises where threads meet in memory with no barrier."""
    if ON_GPU:
        return gpu
    device = simulated_device(races=True)
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    return device


@pytest.fixture
def way(request, monkeypatch):
    """Make every plan run one way."""
    if request.param == "meeting":
        monkeypatch.setattr(program, "SINGLE_TILES", 0)
    elif request.param != "resident":
        monkeypatch.setattr(tuning, "RESIDENT_MULTIPLY_ADDS", 0)
    if request.param == "layered":
        monkeypatch.setattr(tuning, "FUSED_COLUMNS", 0)
    return request.param


# Training on the processor and on the GPU.


def problem(rows=23, features=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features))
    return X, np.tanh(X @ rng.normal(size=(features, outputs)))


def both(network, X, y, dtype="float64", times=1, **settings):
    """Results and models of the same training on the processor and on the GPU.

    Models are trained `times` times in a row; all results are compared, the last is returned.
    """
    found = []
    for device in ("cpu", "cuda"):
        model = fb.Model(network, dtype=dtype, seed=3)
        results = [fb.train(model, X, y, device=device, **settings) for _ in range(times)]
        found.append((results, model))
    (on_cpu, cpu), (on_gpu, gpu_model) = found
    for expected, result in zip(on_cpu, on_gpu, strict=True):
        compare(result, expected, dtype)
    assert scaled_error(gpu_model.parameters, cpu.parameters) < BOUND[dtype]
    return on_gpu[-1], gpu_model


def compare(result, expected, dtype):
    """That two trainings went and ended the same way."""
    assert (expected.device, result.device) == ("cpu", "cuda:0")
    for name in ("epochs", "stopped_by", "best_epoch"):
        assert getattr(result, name) == getattr(expected, name), name
    for name in ("loss", "validation_loss", "gradient_norm", "learning_rate"):
        column, wanted = result.history[name], expected.history[name]
        assert np.array_equal(np.isnan(wanted), np.isnan(column)), name
        error = scaled_error(np.nan_to_num(column), np.nan_to_num(wanted))
        assert error < BOUND[dtype], name
