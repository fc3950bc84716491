"""A simulated GPU behind ``device="cuda"``, for tests of the whole way from `train` to kernels."""

import pytest
from simulator import SimulatedDevice

from fastbp.backends import choose


@pytest.fixture
def gpu(monkeypatch):
    """The device that every engine of the test gets; races and unwritten memory are errors."""
    device = SimulatedDevice(order="random", races=True)
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "")
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    return device
