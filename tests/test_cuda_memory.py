"""What a GPU's memory is taken for, when, and what is never copied to it."""

import re

import numpy as np
import pytest
from foreign_arrays import ForeignArray, count_uploads
from simulated import simulated_device

import fastbp as fb
from fastbp import run_engines
from fastbp.backends import choose

pytestmark = pytest.mark.usefixtures("gpu")

NETWORK = fb.mlp(3, 4, 2)
SETTINGS = {"epochs": 1, "batch_size": 10, "device": "cuda"}


@pytest.fixture
def device(gpu, monkeypatch):
    """A simulated device, whose free memory and allocations a test may look at."""
    if gpu.name != "simulated":
        pytest.skip("others may use the memory of a true device")
    device = simulated_device()
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    device.taken = []
    allocate = device.allocate
    device.allocate = lambda nbytes: (device.taken.append(nbytes), allocate(nbytes))[1]
    return device


def data(rows=20, features=3, outputs=2):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(rows, features)).astype("float32")
    return X, np.tanh(X[:, :outputs])


def trained(X, y, **settings):
    model = fb.Model(NETWORK, seed=0)
    fb.train(model, X, y, **SETTINGS, **settings)
    return model


def bytes_in(message):
    """The bytes wanted, their parts by name, and the bytes free, as a message has them."""
    found = re.search(r"needs ([\d,]+) bytes \((.*)\), and ([\d,]+) are free$", message)
    parts = (part.rsplit(" ", 1) for part in found[2].split(", "))
    wanted, free = (int(found[i].replace(",", "")) for i in (1, 3))
    return wanted, {name: int(number.replace(",", "")) for name, number in parts}, free


def test_a_training_is_refused_before_it_takes_any_memory(device):
    X, y = data()
    validation = (*data(7), np.ones(7))
    weights = np.ones(20)
    settings = {"validation": validation, "sample_weight": weights}
    trained(X, y, **settings)
    needed = sum(device.taken)
    assert device.free_bytes() == device.total_bytes
    # With all that it takes a training runs; with one byte less it takes nothing.
    device.total_bytes = needed
    model = trained(X, y, **settings)
    before = model.parameters.copy()
    device.total_bytes = needed - 1
    device.taken.clear()
    with pytest.raises(fb.DeviceError) as caught:
        fb.train(model, X, y, **SETTINGS, **settings)
    assert device.taken == []
    assert device.free_bytes() == needed - 1  # while the exception and its traceback are there
    wanted, parts, free = bytes_in(str(caught.value))
    assert (wanted, free) == (needed, needed - 1)
    assert sum(parts.values()) == needed
    data_parts = {
        "train inputs": X.nbytes,
        "train targets": y.nbytes,
        "train weights": 20 * 4,
        "evaluate inputs": 7 * 3 * 4,
        "evaluate targets": 7 * 2 * 4,
        "evaluate weights": 7 * 4,
        "learning rates": 2 * 8,
    }
    assert data_parts.items() <= parts.items()
    assert set(parts) - set(data_parts) == {"train plan", "evaluate plan"}
    assert np.array_equal(model.parameters, before)


def test_arrays_that_lie_on_the_device_are_not_counted(device):
    X, y = data()
    there = ForeignArray(device, X), ForeignArray(device, y)
    device.total_bytes -= device.free_bytes()  # nothing is left
    with pytest.raises(fb.DeviceError) as caught:
        trained(*there)
    _, parts, free = bytes_in(str(caught.value))
    assert set(parts) == {"train plan", "learning rates"}
    assert free == 0


@pytest.mark.parametrize(
    ("use", "names"),
    [
        (lambda model, X, y: model.predict(X, device="cuda"), {"predict plan", "predict inputs", "predict outputs"}),
        (lambda model, X, y: model.jacobian(X, device="cuda"), {"vjp plan", "vjp inputs", "vjp cotangent", "vjp outputs"}),
        (lambda model, X, y: model.loss_and_gradient(X, y, device="cuda"), {"gradient plan", "gradient inputs", "gradient targets"}),
    ],
)  # fmt: skip
def test_predictions_and_derivatives_are_refused_likewise(device, use, names):
    X, y = data()
    model = fb.Model(NETWORK, seed=0)
    device.total_bytes = 100
    with pytest.raises(fb.DeviceError) as caught:
        use(model, X, y)
    wanted, parts, free = bytes_in(str(caught.value))
    assert set(parts) == names
    assert sum(parts.values()) == wanted
    assert free == device.free_bytes() == 100
    # Later, the model finds that there is enough; and then, of the engine it keeps, only the data.
    device.total_bytes = wanted
    use(model, X, y)
    device.total_bytes -= device.free_bytes()
    if "gradient plan" not in names:
        with pytest.raises(fb.DeviceError) as caught:
            use(model, X, y)
        _, parts, _ = bytes_in(str(caught.value))
        assert set(parts) == {name for name in names if not name.endswith("plan")}


def test_what_was_taken_is_given_back_where_the_rest_fails(device, monkeypatch):
    X, y = data()
    function = device.function
    loaded = []

    def fails_for_the_validation(entry):
        loaded.append(entry)
        if len(loaded) > 1:
            raise fb.DeviceError("this kernel cannot be loaded")
        return function(entry)

    monkeypatch.setattr(device, "function", fails_for_the_validation)
    with pytest.raises(fb.DeviceError, match="cannot be loaded") as caught:
        trained(X, y, validation=data(7))
    assert device.taken
    assert device.free_bytes() == device.total_bytes
    del caught

    monkeypatch.setattr(device, "function", function)
    monkeypatch.setattr(run_engines, "bind", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(X, y, validation=data(7))
    assert device.free_bytes() == device.total_bytes
    assert caught.value is not None


def interrupt(engine, data):
    engine.load_parameters(np.zeros(NETWORK.parameter_count, "float32"))
    raise KeyboardInterrupt


def test_validation_arrays_are_used_where_they_lie(gpu, monkeypatch):
    X, y = data()
    held_X, held_y = data(7)
    expected = trained(X, y, validation=(held_X, held_y))
    there = ForeignArray(gpu, held_X), ForeignArray(gpu, held_y)
    uploads = count_uploads(gpu, monkeypatch)
    model = trained(X, y, validation=there)
    assert not {held_X.shape, held_y.shape} & set(uploads)
    assert {X.shape, y.shape} <= set(uploads)
    assert np.array_equal(model.parameters, expected.parameters)
    # What is standardised is no more what lies there.
    uploads.clear()
    trained(X, y, validation=there, standardize=True)
    assert {held_X.shape, held_y.shape} <= set(uploads)


def test_derivatives_use_arrays_where_they_lie(gpu, monkeypatch):
    X, v = data()
    model = fb.Model(NETWORK, seed=0)
    expected = model.vjp(X, v, device="cuda")
    expected_jacobian = model.jacobian(X, device="cuda")
    there = ForeignArray(gpu, X), ForeignArray(gpu, v)
    uploads = count_uploads(gpu, monkeypatch)
    assert np.array_equal(model.vjp(*there, device="cuda"), expected)
    assert not {X.shape, v.shape} & set(uploads)
    assert np.array_equal(model.jacobian(there[0], device="cuda"), expected_jacobian)
    assert uploads.count(X.shape) == 0
    assert uploads.count(v.shape) == 2  # a cotangent for each output
    # One whose numbers lie across the addresses of numbers is copied.
    misplaced = ForeignArray(gpu, X, misplaced=2)
    uploads.clear()
    assert np.array_equal(model.vjp(misplaced, v, device="cuda"), expected)
    assert {X.shape, v.shape} <= set(uploads)


def test_a_jacobian_sends_its_inputs_once(gpu, monkeypatch):
    X, _ = data()
    model = fb.Model(NETWORK, dtype="float64", seed=0)
    uploads = count_uploads(gpu, monkeypatch)
    found = model.jacobian(X, device="cuda")
    assert uploads.count(X.shape) == 1
    assert np.allclose(found, model.jacobian(X), rtol=1e-13)
    for j in range(2):
        cotangents = np.zeros((20, 2))
        cotangents[:, j] = 1
        assert np.array_equal(found[:, j], model.vjp(X, cotangents, device="cuda"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_weights_that_are_subnormal_count_as_zero(where, dtype):
    epochs = 2 if where == "cpu" else 1
    settings = {"device": where, "epochs": epochs, "batch_size": 3, "shuffle": False}
    tiny = np.finfo(dtype).smallest_normal
    X, y = data(6)
    found = []
    for small in (tiny * np.array([0.4, 1e-3, 0.2]), np.zeros(3)):
        model = fb.Model(NETWORK, dtype=dtype, seed=0)
        weights = np.concatenate([np.ones(3), small])
        # The second batch has weights of that kind alone.
        result = fb.train(model, X, y, sample_weight=weights, **settings)
        losses = (result.loss, model.loss(X, y, sample_weight=weights, device=where))
        found.append((model.parameters.tobytes(), *losses))
    assert found[0] == found[1]
    # A normal one counts.
    weights[3:] = 4 * tiny
    other = fb.Model(NETWORK, dtype=dtype, seed=0)
    fb.train(other, X, y, sample_weight=weights, **settings)
    assert other.parameters.tobytes() != found[0][0]
