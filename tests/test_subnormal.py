"""Subnormal numbers: flushed while a training runs, exact elsewhere, whatever the caller's mode."""

import platform

import numpy as np
import pytest
from numba import njit

import fastbp as fb
from fastbp.backends.choose import geometry, in_standard_arithmetic
from fastbp.backends.contract import Status
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.job import Job, Mode
from fastbp.backends.cpu.synchronization import FLUSHING, IS_X86, STANDARD, get_mode, set_mode
from fastbp.losses import Mse
from fastbp.plan import build_plan

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64", "aarch64", "arm64"},
    reason="no mode is known for this processor",
)
STICKY = 0x3F  # of x86: which exceptions there were
TINY = np.float32(1e-40)


@njit
def read_mode():
    return get_mode()


@njit
def write_mode(mode):
    set_mode(mode)


def mode_now():
    return read_mode() & ~STICKY


@pytest.fixture
def flushing():
    """The caller's thread has its own ideas, as if a library had set them."""
    before = read_mode()
    write_mode(FLUSHING)
    yield
    write_mode(before)


def everything():
    """The bytes of a training, of predictions and of derivatives that meet subnormal numbers."""
    network = fb.mlp(3, 4, 2, activation="identity")
    model = fb.Model(network, seed=1)
    model.parameters[:] = np.where(model.parameters < 0, TINY, np.float32(0.5))
    X = np.ones((40, 3), dtype="float32")
    X[:, 1] = TINY
    y = np.zeros((40, 2), dtype="float32")
    found = [
        model.predict(X[:1].copy()),
        model.predict(X),
        model.predict(np.full((40, 3), TINY)),
        model.jacobian(X),
        model.loss_and_gradient(X, y)[1],
    ]
    fb.train(model, X, y, epochs=30, batch_size=8)
    return [array.tobytes() for array in (*found, model.parameters)]


def test_the_mode_of_the_caller_has_no_influence_and_is_put_back(flushing):
    assert mode_now() == FLUSHING
    found = everything()
    assert mode_now() == FLUSHING
    write_mode(STANDARD)
    expected = everything()
    assert mode_now() == STANDARD
    assert found == expected


GENERATOR = np.random.default_rng(4)
ROWS_64 = GENERATOR.normal(size=(40, 3)) * [1, 1, 1e-308]  # the last, for the most part subnormal
TARGETS_64 = GENERATOR.normal(size=(40, 2)) * 1e-300
ROWS_32 = np.full((40, 3), 1e-40)  # subnormal once they are float32


def converted_and_scaled():
    """The bytes of what NumPy's arithmetic has a part in: other precisions, and the scaling."""
    model = fb.Model(fb.mlp(3, 2), seed=1)
    found = [model.predict(ROWS_32), model.predict(ROWS_32, np.empty((40, 2), "float32"))]
    model = fb.Model(fb.mlp(3, 2), dtype="float64", seed=1)
    X, y = ROWS_64, TARGETS_64
    fb.train(model, X, y, epochs=2, standardize=True)
    found += [model.parameters, model.scaling.input_mean, model.scaling.input_scale]
    found += [model.predict(X), model.predict(X[:1]), model.jacobian(X), model.input_gradient(X, y)]
    found += [model.vjp(X, y), *model.loss_and_gradient(X, y), model.loss(X, y)]
    return [np.asarray(array).tobytes() for array in found]


def test_numpys_part_is_in_the_standard_mode_too(flushing):
    """Whatever the thread's mode; it is put back, also where a call is refused."""
    found = converted_and_scaled()
    assert mode_now() == FLUSHING
    model = fb.Model(fb.mlp(1, 1))
    with pytest.raises(ValueError, match="expected 1 columns"):
        model.loss(np.ones((2, 2)), np.ones(2))
    assert mode_now() == FLUSHING
    write_mode(STANDARD)
    assert converted_and_scaled() == found
    assert mode_now() == STANDARD


@pytest.mark.skipif(not IS_X86, reason="one bit alone says it on other processors")
@pytest.mark.parametrize("bit", [0x8000, 0x40], ids=["results to zero", "operands are zeros"])
def test_either_half_of_the_mode_is_noticed(bit, flushing):
    write_mode(STANDARD | bit)
    assert in_standard_arithmetic(mode_now)() == STANDARD
    assert mode_now() == STANDARD | bit


def test_predictions_and_derivatives_are_exact(flushing):
    """A weight, an input and a product below the smallest normal number come through."""
    model = fb.Model(fb.mlp(1, 1))
    model.parameters[:] = TINY, 0
    one = np.ones((1, 1), dtype="float32")
    many = np.ones((40, 1), dtype="float32")
    for X in (one, many):
        assert (model.predict(X).view("int32") == TINY.view("int32")).all()
        assert (model.jacobian(X).view("int32") == TINY.view("int32")).all()
    model.parameters[:] = 1, 0
    for X in (one, many):
        X[:] = TINY
        assert (model.predict(X).view("int32") == TINY.view("int32")).all()
    _, gradient = model.loss_and_gradient(many, np.full((40, 1), -0.5, dtype="float32"))
    assert abs(int(gradient[:1].view("int32")[0]) - int(TINY.view("int32"))) <= 40


def slot_after(steps, mode=None, threads=1):
    """Adam's first moment of a weight whose gradient was zero in all steps but the first."""
    network = fb.mlp(2, 1)
    plan = build_plan(
        network, "train", "float32", 1, geometry("cpu"), loss=Mse(), optimizer=fb.Adam()
    )
    engine = Engine(plan, threads, parallel=threads > 1)
    if mode is not None:
        engine.job[Job.MODE] = mode
    engine.load_parameters(np.zeros(3, dtype="float32"))
    X = np.ones((steps, 2), dtype="float32")
    X[1:, 1] = 0
    engine.bind("data.inputs", X)
    engine.bind("data.targets", np.ones((steps, 1), dtype="float32"))
    engine.bind("data.weights", None)
    engine.begin_epoch(steps, learning_rates=np.full(steps, 1e-3))
    assert engine.run(0, steps) == (Status.DONE, steps)
    return engine.buffers.read("0.weight.first").ravel()[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_moments_that_fade_away_are_flushed_in_training(threads):
    smallest = np.finfo("float32").smallest_normal
    assert abs(slot_after(700, threads=threads)) > smallest
    assert slot_after(900, threads=threads) == 0
    assert 0 < abs(slot_after(900, Mode.GRADUAL, threads)).view("int32") < smallest.view("int32")


def test_training_where_gradients_are_subnormal_is_finite():
    X = np.full((64, 2), 1e-30, dtype="float32")
    model = fb.Model(fb.mlp(2, 4, 1, activation="tanh"))
    result = fb.train(model, X, np.full(64, 1e-12), epochs=20, batch_size=16)
    assert np.isfinite(result.loss)
    assert np.isfinite(model.parameters).all()
