"""A simulated GPU behind ``device="cuda"``, for tests of the whole way from `train` to kernels.

With FASTBP_TEST_GPU=1 in the environment it is the machine's own first GPU instead.
"""

import os

import pytest

from fastbp.backends import choose
from fastbp.backends.cuda import program, tuning

WAYS = ["resident", "meeting", "fused", "layered"]  # resident as one block, and as some that meet


def simulated_device(**options):
    from simulator import SimulatedDevice  # needs greenlet, which a machine with a GPU may lack

    return SimulatedDevice(order="random", **options)


@pytest.fixture
def gpu(monkeypatch):
    """The device that every engine of the test gets."""
    if os.environ.get("FASTBP_TEST_GPU") == "1":
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
    if gpu.name != "simulated":
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
