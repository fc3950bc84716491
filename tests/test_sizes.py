"""What no memory can hold is refused by name before anything is allocated."""

import numpy as np
import pytest

import fastbp as fb
from fastbp import sizes
from fastbp.backends.choose import create_engine, geometry
from fastbp.plan import build_plan


def broadcast(*shape):
    """A view of one number as so many."""
    return np.broadcast_to(np.float32(0.5), shape)


@pytest.fixture
def small_machine(monkeypatch):
    """Of a megabyte."""
    monkeypatch.setattr(sizes, "most_bytes", lambda: 1_000_000)


@pytest.mark.parametrize("units", [2**20, 2**31, 2**32, 2**62, 10**30])
def test_networks_whose_parameters_no_memory_holds(units):
    """Also where their number, or that of their bytes, is none of 64 bits."""
    network = fb.mlp(units, units, 1)
    count = units * units + 2 * units + 1
    assert network.parameter_count == count
    with pytest.raises(MemoryError, match=rf"^network: .* got {count:,} parameters"):
        fb.Model(network)


def test_plans_that_no_memory_holds(small_machine):
    """The parameters alone would fit."""
    model = fb.Model(fb.mlp(2, 10_000, 1))
    X = np.ones((64, 2), dtype="float32")
    before = model.parameters.copy()
    for call in (
        lambda: model.predict(X),
        lambda: model.loss_and_gradient(X, X[:, 0]),
        lambda: fb.train(model, X, X[:, 0], epochs=1),
    ):
        with pytest.raises(MemoryError, match=r"^network: .* got what a plan to "):
            call()
    assert np.array_equal(model.parameters, before)
    narrow = fb.Model(fb.mlp(2, 3, 1))
    assert narrow.predict(X).shape == (64, 1)


def test_a_plan_asks_for_what_it_takes(monkeypatch):
    """One byte less than its slabs have is too little."""
    plan = build_plan(fb.mlp(3, 9, 2), "predict", "float32", 40, geometry("cpu"))
    taken = sum(slab.nbytes for slab in create_engine(plan).buffers.slabs.values())
    monkeypatch.setattr(sizes, "most_bytes", lambda: taken)
    create_engine(plan)
    monkeypatch.setattr(sizes, "most_bytes", lambda: taken - 1)
    with pytest.raises(MemoryError, match=r"^network: "):
        create_engine(plan)


def test_arrays_whose_copy_no_memory_holds():
    """2**60 bytes and more. An array that needs no copy is taken, however large."""
    model = fb.Model(fb.mlp(3, 1))
    X = broadcast(2**57, 3)
    y = broadcast(2**57)
    with pytest.raises(MemoryError, match=r"^X: .* an array of shape \(144115188075855872, 3\)"):
        model.predict(X)
    with pytest.raises(MemoryError, match=r"^X: "):
        fb.train(model, X, y)
    few = np.ones((4, 3), dtype="float32")
    with pytest.raises(MemoryError, match=r"^validation\[0\]: "):
        fb.train(model, few, few[:, 0], validation=(X, y))


def test_results_that_no_memory_holds(small_machine):
    wide = fb.Model(fb.mlp(1, 300))
    X = np.ones((1000, 1), dtype="float32")
    with pytest.raises(MemoryError, match=r"^X: .* the outputs for its rows"):
        wide.predict(X)
    with pytest.raises(MemoryError, match=r"^X: .* the Jacobians of its rows"):
        wide.jacobian(X)


@pytest.mark.parametrize("batch_size", [2**31, 2**63, 10**30])
def test_more_rows_a_batch_than_there_are_is_all_rows(batch_size, small):
    """However many more."""
    X, y = small
    found = []
    for size in (len(X), batch_size):
        model = fb.Model(fb.mlp(3, 4, 1))
        fb.train(model, X, y, epochs=2, batch_size=size)
        found.append(model.parameters.tobytes())
    assert found[0] == found[1]


def test_what_this_machine_has():
    """Where the system says it; else nothing is refused that could be counted."""
    assert 2**28 < sizes.most_bytes() <= sizes.UNKNOWN


def test_a_system_that_does_not_say_it(monkeypatch):
    class Absent:
        def __init__(self, path):
            pass

        def read_text(self, encoding):
            raise FileNotFoundError

    monkeypatch.setattr(sizes, "Path", Absent)
    assert sizes.most_bytes.__wrapped__() == sizes.UNKNOWN
