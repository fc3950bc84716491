"""Training and derivatives on a simulated GPU: every way to run a step, against the processor."""

import copy
import itertools
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from foreign_arrays import ForeignArray, count_uploads
from simulated import WAYS, both, problem, simulated_device, simulated_only
from strategies import scaled_error

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.cuda import program, tuning
from fastbp.elementary import constant, sign

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize(("dtype", "epochs"), [("float32", 1), ("float64", 2)])
@pytest.mark.usefixtures("racing")
@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_every_way_trains_as_the_processor_does(way, dtype, epochs):
    """Epochs of two batches, of which the last has fewer rows."""
    X, y = problem(14)
    network = fb.mlp(3, 5, 4, 2, activation="tanh")
    both(network, X, y, dtype, optimizer=fb.Adam(0.01), epochs=epochs, batch_size=9)


@pytest.mark.parametrize(
    ("held", "single_tiles"),
    [(held, tiles) for held in ("nothing", "parameters") for tiles in (0, 2)],
)
def test_what_resident_blocks_hold_does_not_matter(held, single_tiles, racing, monkeypatch):
    held_all = program.bytes_held
    monkeypatch.setattr(program, "SINGLE_TILES", single_tiles)
    monkeypatch.setattr(program, "bytes_held", lambda plan: until(held, held_all(plan)))
    entries, load = [], racing.function  # a GPU keeps the kernels of other tests, too
    monkeypatch.setattr(racing, "function", lambda entry: entries.append(entry) or load(entry))
    X, y = problem(14)
    network = fb.mlp(3, 5, 4, 2, activation="tanh")
    both(network, X, y, optimizer=fb.Adam(0.01), epochs=1, batch_size=9, l1=1e-3, clip_norm=0.3)
    found = [(entry.held, entry.single) for entry in entries if entry.resident]
    assert found == [(held, single_tiles > 0)]


def until(name, found):
    """The items of a dictionary up to a name."""
    names = list(found)
    return {each: found[each] for each in names[: names.index(name) + 1]}


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_everything_at_once(way):
    X, y = problem(20)
    weights = np.random.default_rng(1).uniform(size=20) * (np.arange(20) % 5 > 0)
    both(
        fb.mlp(3, 4, 2, activation="silu"),
        X,
        y,
        loss=fb.Huber(0.5),
        optimizer=fb.AdamW(0.02),
        schedule=fb.CosineDecay(),
        epochs=2,
        batch_size=8,
        validation=0.2,
        sample_weight=weights,
        clip_norm=0.3,
        clip_value=0.2,
        l1=1e-3,
        l2=1e-2,
        standardize=True,
    )


@pytest.mark.parametrize(
    ("way", "batch_size"),
    [*itertools.product(("fused", "layered"), (40, 41, 60)), ("resident", 41)],
    indirect=["way"],
)
def test_batches_that_come_in_segments(way, batch_size, monkeypatch):
    """Whole segments, one with a row more, all rows; what would be resident is fused then."""
    monkeypatch.setattr(tuning, "FUSED_SEGMENT_ROWS", 20)
    monkeypatch.setattr(tuning, "LAYERED_SEGMENT_ROWS", 20)
    X, y = problem(60)
    both(fb.mlp(3, 4, 2), X, y, optimizer=fb.SGD(0.1), epochs=1, batch_size=batch_size)


@pytest.mark.usefixtures("racing")
def test_inputs_that_are_a_little_too_wide_for_shared_memory():
    X, y = problem(5, 258, 1)
    both(fb.mlp(258, 256, 1), X, y, "float32", optimizer=fb.SGD(0.1), epochs=1, batch_size=5)


def test_many_shares_and_panels(monkeypatch):
    """Layers wider than a panel, and sums that are cut into shares."""
    monkeypatch.setattr(tuning, "SHARE_ROWS", 16)
    monkeypatch.setattr(tuning, "RESIDENT_MULTIPLY_ADDS", 0)
    X, y = problem(64, 70, 3)
    network = fb.mlp(70, 66, 3, activation="relu")
    both(network, X, y, optimizer=fb.SGD(0.1, momentum=0.9), epochs=1, batch_size=64)


@pytest.mark.parametrize("way", ["fused", "layered"], indirect=True)
def test_cross_entropy_with_many_classes(way):
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(20, 4)), rng.integers(0, 35, 20)
    both(fb.mlp(4, 6, 35), X, y, loss="cross_entropy", optimizer="rprop", epochs=1, batch_size=20)


@simulated_only("a GPU has one order, its own")
def test_the_same_bits_in_any_order_of_threads_and_blocks(monkeypatch):
    X, y = problem(50)
    found = set()
    for order, name in itertools.product(("forward", "reversed", "random"), ("resident", "fused")):
        device = simulated_device(order=order)
        monkeypatch.setattr(choose, "cuda_device", lambda name, device=device: device)
        limit = 4_000_000 if name == "resident" else 0
        monkeypatch.setattr(tuning, "RESIDENT_MULTIPLY_ADDS", limit)
        model = fb.Model(fb.mlp(3, 4, 2), seed=0)
        fb.train(model, X, y, epochs=1, batch_size=50, device="cuda")
        found.add(model.parameters.tobytes())
    assert len(found) == 1


def test_derivatives(gpu):
    X, y = problem(19, 3, 2)
    model = fb.Model(fb.mlp(3, 5, 2, activation="gelu"), dtype="float64", seed=1)
    v = np.random.default_rng(2).normal(size=(19, 2))
    on = {"device": "cuda"}
    assert scaled_error(model.predict(X, **on), model.predict(X)) < 1e-14
    assert abs(model.loss(X, y, **on) - model.loss(X, y)) < 1e-14
    value, gradient = model.loss_and_gradient(X, y, **on)
    expected_value, expected = model.loss_and_gradient(X, y)
    assert abs(value - expected_value) < 1e-14
    assert scaled_error(gradient, expected) < 1e-13
    assert scaled_error(model.input_gradient(X, y, **on), model.input_gradient(X, y)) < 1e-14
    assert scaled_error(model.vjp(X, v, **on), model.vjp(X, v)) < 1e-13
    assert scaled_error(model.jacobian(X, **on), model.jacobian(X)) < 1e-13
    out = np.empty((19, 2))
    assert model.predict(X, out=out, **on) is out
    assert scaled_error(out, model.predict(X)) < 1e-14
    assert np.array_equal(model.predict(X[:1], **on)[0], model.predict(X, **on)[0])


@simulated_only("with little memory")
def test_memory_is_sized_before_anything_is_allocated(monkeypatch):
    device = simulated_device(total_bytes=10_000)
    monkeypatch.setattr(choose, "cuda_device", lambda name: device)
    X, y = problem(100)
    model = fb.Model(fb.mlp(3, 64, 2))
    before = model.parameters.copy()
    with pytest.raises(fb.DeviceError, match=r"needs [\d,]+ bytes.*10,000 are free"):
        fb.train(model, X, y, device="cuda")
    assert device.free_bytes() == 10_000
    assert np.array_equal(model.parameters, before)


@simulated_only("a GPU's memory also holds kernels, and what other processes have")
def test_all_device_memory_is_given_back(gpu):
    X, y = problem(20)
    free = gpu.free_bytes()
    model = fb.Model(fb.mlp(3, 4, 2))
    fb.train(model, X, y, validation=0.3, epochs=1, batch_size=14, device="cuda")
    assert gpu.free_bytes() == free
    model.predict(X, device="cuda")
    assert gpu.free_bytes() < free  # the model keeps its engine
    del model
    assert gpu.free_bytes() == free


def test_arrays_on_the_device_are_used_where_they_lie(gpu, monkeypatch):
    X, y = (array.astype("float32") for array in problem(20))
    uploads = count_uploads(gpu, monkeypatch)
    expected = fb.Model(fb.mlp(3, 4, 2), seed=0)
    fb.train(expected, X, y, epochs=1, batch_size=10, device="cuda")
    model = copy.deepcopy(fb.Model(fb.mlp(3, 4, 2), seed=0))
    there = ForeignArray(gpu, X), ForeignArray(gpu, y)
    assert {X.shape, y.shape} <= set(uploads)
    uploads.clear()
    fb.train(model, *there, epochs=1, batch_size=10, device="cuda")
    assert X.shape not in uploads
    assert y.shape not in uploads
    assert np.array_equal(model.parameters, expected.parameters)
    # Another dtype, or the processor, takes a copy; what is not finite is refused there too.
    wide = ForeignArray(gpu, X.astype("float64"))
    assert np.array_equal(model.predict(wide), model.predict(X))
    assert np.array_equal(model.predict(wide, device="cuda"), model.predict(X, device="cuda"))
    # One whose numbers lie across the addresses of numbers is copied, too.
    misplaced = ForeignArray(gpu, X, 2)
    assert np.array_equal(model.predict(misplaced, device="cuda"), model.predict(X, device="cuda"))
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="X: expected finite numbers; got nan at row 3, column 1"):
        fb.train(model, ForeignArray(gpu, X), there[1], device="cuda")


def test_auto_takes_the_gpu_for_large_batches_alone(monkeypatch):
    X, y = problem(20)
    small = fb.train(fb.Model(fb.mlp(3, 4, 2)), X, y, epochs=1)
    assert small.device == "cpu"
    monkeypatch.setattr(choose, "AUTO_MULTIPLY_ADDS", 1000)
    large = fb.train(fb.Model(fb.mlp(3, 4, 2)), X, y, epochs=1)
    assert large.device == "cuda:0"
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "no driver")
    assert fb.train(fb.Model(fb.mlp(3, 4, 2)), X, y, epochs=1).device == "cpu"


def test_laws_of_users(monkeypatch):
    for family in (fb.Activation, fb.Loss, fb.Optimizer):  # other tests enumerate them
        monkeypatch.setattr(family, "registry", dict(family.registry))

    @dataclass(frozen=True)
    class Cube(fb.Activation):
        scale: float = 1.0

        @staticmethod
        def law(z, settings):
            (scale,) = settings
            return z + scale * z * z * z, constant(1.0, z) + constant(3.0, z) * scale * z * z

    @dataclass(frozen=True)
    class JittedSquare(fb.Activation):
        law = staticmethod(square)

    @dataclass(frozen=True)
    class Quartic(fb.Loss):
        @staticmethod
        def law(output, target, settings):
            residual = output - target
            cube = residual * residual * residual
            return cube * residual, constant(4.0, output) * cube

    @dataclass(frozen=True)
    class SignDescent(fb.Optimizer):
        learning_rate: float = 0.1

        @property
        def update(self):
            return update_sign

    X, y = problem(12)
    network = fb.Network(3, [fb.Dense(4, Cube(0.2)), fb.Dense(2, JittedSquare())])
    both(network, X, y, loss=Quartic(), optimizer=SignDescent(), epochs=1, batch_size=12)


@numba.njit
def square(z, settings):
    return z * z, z + z


def update_sign(parameter, gradient, slots, coefficients, is_weight):
    (learning_rate,) = coefficients
    return parameter - learning_rate * sign(gradient), slots
