"""A simulated GPU behind ``device="cuda"``, for tests of the whole way from `train` to kernels."""

import pytest
from simulator import SimulatedDevice

from fastbp.backends import choose
from fastbp.backends.cuda import tuning

WAYS = ["resident", "fused", "layered"]


@pytest.fixture
def gpu(monkeypatch):
    """The device that every engine of the test gets."""
    device = SimulatedDevice(order="random", races=True)
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "")
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    return device


@pytest.fixture
def way(request, monkeypatch):
    """Make every plan run one way."""
    if request.param != "resident":
        monkeypatch.setattr(tuning, "RESIDENT_MULTIPLY_ADDS", 0)
    if request.param == "layered":
        monkeypatch.setattr(tuning, "FUSED_COLUMNS", 0)
    return request.param
