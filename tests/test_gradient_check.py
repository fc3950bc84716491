"""`fastbp.gradient_check`: it finds planted faults and nothing else."""

import json
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from strategies import make_targets

import fastbp as fb
from fastbp.complex_step import ByReal
from fastbp.elementary import constant, tanh
from fastbp.elementary import exp as exponential
from fastbp.gradient_checks import derivative


@pytest.fixture
def laws(monkeypatch):
    """Laws of the test alone: others enumerate the registries."""
    for family in (fb.Activation, fb.Loss):
        monkeypatch.setattr(family, "registry", dict(family.registry))


def data(rows=12, features=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features))
    return X, np.tanh(X @ rng.normal(size=(features, outputs)))


def tanh_model(dtype="float64"):
    return fb.Model(fb.mlp(3, 5, 2, activation="tanh"), dtype=dtype, seed=1)


@pytest.mark.parametrize("name", fb.Activation.names())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation_passes(name, dtype):
    X, y = data()
    model = fb.Model(fb.mlp(3, 6, 4, 2, activation=name), dtype=dtype, seed=2)
    # Without biases, units of relu that see zeros alone stand at their kink.
    model.parameters[...] += 0.1 * np.random.default_rng(3).normal(size=model.parameters.size)
    found = fb.gradient_check(model, X, y)
    assert found.passed, str(found)
    assert found.not_complex == ""
    assert all(tensor.complex_scaled <= tensor.complex_tolerance for tensor in found.tensors)
    assert sum(tensor.kinks for tensor in found.tensors) == 0
    if dtype == "float64":
        assert max(tensor.difference_scaled for tensor in found.tensors) < 1e-9


@pytest.mark.parametrize("name", fb.Loss.names())
def test_every_loss_passes(name):
    rng = np.random.default_rng(1)
    loss = fb.Loss.resolve(name)
    X, y = rng.normal(size=(12, 3)), make_targets(name, 12, 3, rng)
    model = fb.Model(fb.mlp(3, 5, 3, activation="tanh"), dtype="float64", seed=2)
    weights = rng.uniform(size=12) * (np.arange(12) > 2)
    found = fb.gradient_check(model, X, y, loss, weights)
    assert found.passed, str(found)
    assert found.not_complex == ""
    assert sum(tensor.kinks for tensor in found.tensors) == 0


def test_layers_that_are_not_dense():
    X, y = data()
    inside = [fb.Dense(6, "gelu"), fb.Dropout(0.5), fb.Dense(6)]
    layers = [fb.Dense(6, "relu"), fb.LayerNorm(), fb.Residual(inside), fb.Dense(2)]
    found = fb.gradient_check(fb.Model(fb.Network(3, layers), dtype="float64"), X, y, samples=8)
    assert found.passed, str(found)
    assert found.not_complex == ""
    assert [tensor.name for tensor in found.tensors][3:5] == ["1.bias", "2.0.weight"]
    assert max(tensor.checked for tensor in found.tensors) == 8


def test_scaling_is_part_of_the_gradient_by_the_inputs():
    X, y = data()
    model = tanh_model()
    fb.train(model, X * 100 + 30, y, epochs=1, standardize=True)
    before = model.parameters.copy()
    found = fb.gradient_check(model, X * 100 + 30, y)
    assert found.passed, str(found)
    assert np.array_equal(model.parameters, before)


def wrong_activation(error, part):
    """tanh whose derivative is wrong below zero, or everywhere."""

    @dataclass(frozen=True)
    class WrongTanh(fb.Activation):
        error: float = 0.0

        @staticmethod
        def law(z, settings):
            (error,) = settings
            value = tanh(z)
            one = constant(1.0, z)
            right = one - value * value
            if part == 0 and z > constant(0.0, z):
                return value, right
            return value, right * (one + error)

    return WrongTanh(error)


@pytest.mark.usefixtures("laws")
@pytest.mark.parametrize(
    ("dtype", "error", "part"),
    [("float64", 1e-9, 0), ("float64", 0.1, 1), ("float32", 1e-3, 0), ("float32", 1.0, 1)],
)
def test_a_wrong_derivative_of_an_activation_is_found(dtype, error, part):
    X, y = data()
    activation = wrong_activation(error, part)
    network = fb.Network(3, [fb.Dense(5, activation), fb.Dense(2)])
    found = fb.gradient_check(fb.Model(network, dtype=dtype, seed=1), X, y)
    verdicts = {tensor.name: tensor.passed for tensor in found.tensors}
    # What lies behind the layer does not see its derivative.
    assert verdicts == {
        "0.weight": False,
        "0.bias": False,
        "1.weight": True,
        "1.bias": True,
        "inputs": False,
    }
    assert not found.passed
    assert "3 of 5 tensors failed" in str(found)
    if error >= 1e-3:
        by_differences = [t for t in found.tensors if t.difference_scaled > t.difference_tolerance]
        assert len(by_differences) == 3
    right = fb.Network(3, [fb.Dense(5, wrong_activation(0.0, part)), fb.Dense(2)])
    assert fb.gradient_check(fb.Model(right, dtype=dtype, seed=1), X, y).passed


@pytest.mark.usefixtures("laws")
def test_a_wrong_derivative_of_a_loss_is_found():
    @dataclass(frozen=True)
    class WrongQuartic(fb.Loss):
        @staticmethod
        def law(output, target, settings):
            residual = output - target
            cube = residual * residual * residual
            return cube * residual, constant(3.0, output) * cube

    X, y = data()
    found = fb.gradient_check(tanh_model(), X, y, WrongQuartic())
    assert not any(tensor.passed for tensor in found.tensors)


@numba.njit
def swish(z):
    """A function that a law calls."""
    return z / (constant(1.0, z) + exponential(-z))


@numba.njit
def jitted_cube(z, settings):
    return z * z * z, 3 * z * z


@pytest.mark.usefixtures("laws")
def test_laws_of_users_that_call_functions_of_their_own():
    slope = 0.25

    @dataclass(frozen=True)
    class Mixed(fb.Activation):
        @staticmethod
        def law(z, settings):
            one = constant(1.0, z)
            decayed = exponential(-z)
            derivative = (one + decayed + z * decayed) / ((one + decayed) * (one + decayed))
            return swish(z) + constant(slope, z) * abs(z), derivative + constant(slope, z) * (
                one if z > constant(0.0, z) else -one
            )

    @dataclass(frozen=True)
    class JittedCube(fb.Activation):
        law = staticmethod(jitted_cube)

    X, y = data()
    layers = [fb.Dense(5, Mixed()), fb.Dense(4, JittedCube()), fb.Dense(2)]
    found = fb.gradient_check(fb.Model(fb.Network(3, layers), dtype="float64"), X, y)
    assert found.passed, str(found)
    assert found.not_complex == ""


@pytest.mark.usefixtures("laws")
def test_laws_that_take_no_complex_numbers_are_checked_by_differences_alone():
    import math

    @dataclass(frozen=True)
    class Sinh(fb.Activation):
        @staticmethod
        def law(z, settings):
            return math.sinh(z), math.cosh(z)

    X, y = data()
    network = fb.Network(3, [fb.Dense(5, Sinh()), fb.Dense(2)])
    found = fb.gradient_check(fb.Model(network, dtype="float64"), X, y)
    assert found.passed, str(found)
    assert "the law of Sinh in layer 0: TypeError" in found.not_complex
    assert np.isnan([tensor.complex_error for tensor in found.tensors]).all()
    assert max(tensor.difference_scaled for tensor in found.tensors) < 1e-9
    assert found.as_dict()["tensors"][0]["complex_error"] is None


def test_kinks_are_marked_and_are_no_failures():
    """Inputs and biases of zero: every unit of relu stands at its kink."""
    model = fb.Model(fb.mlp(3, 5, 2), dtype="float64", seed=1)
    X, y = np.zeros((4, 3)), np.ones((4, 2))
    found = {tensor.name: tensor for tensor in fb.gradient_check(model, X, y).tensors}
    assert all(tensor.passed for tensor in found.values())
    assert found["0.bias"].kinks > 0
    assert found["1.bias"].kinks == 0
    assert found["0.bias"].complex_error == 0


def test_a_report_is_text_and_plain_data():
    X, y = data()
    found = fb.gradient_check(tanh_model("float32"), X, y)
    text = str(found)
    assert text.splitlines()[-1] == "passed"
    assert "0.weight  15 of 15" in text
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["passed"] is True
    assert [tensor["name"] for tensor in plain["tensors"]][-1] == "inputs"
    again = fb.gradient_check(tanh_model("float32"), X, y)
    assert again == found


def test_arguments_are_checked():
    X, y = data()
    with pytest.raises(TypeError, match="model: expected a Model; got int"):
        fb.gradient_check(3, X, y)
    with pytest.raises(ValueError, match="samples: expected an integer of at least 1"):
        fb.gradient_check(tanh_model(), X, y, samples=0)
    with pytest.raises(ValueError, match="y: expected"):
        fb.gradient_check(tanh_model(), X, y[:3])


# The parts.


@pytest.mark.parametrize("at", [1e-4, 0.3, 7.0, -2e3])
def test_differences_are_sharp(at):
    found = derivative(lambda x: np.sin(x) + 2.0, at, 1e-6)
    assert abs(found - np.cos(at)) < 1e-8 * max(1.0, abs(at))


@pytest.mark.parametrize("kink", [0.0, 1e-9, 1e-6, 3e-4])
def test_differences_at_a_kink(kink):
    found = derivative(lambda x: abs(x - kink) + x * x, 0.0, 1e-6)
    assert np.isnan(found) if kink < 1e-8 else abs(found + 1) < 1e-6


def test_complex_numbers_that_are_compared_by_their_real_part():
    z = ByReal(-2.0, 1e-30)
    assert z < 0
    assert z <= -2
    assert not z > -2.0
    assert z >= ByReal(-2.0, 5.0)
    assert z == -2
    assert z != 1
    assert abs(z).imag == -1e-30
    for value in (z + 1, 1 + z, 1 - z, z - 1, 2 * z, z / 2, 1 / z, z * z, z**2, -z, z - z):
        assert isinstance(value, ByReal)
    assert (z**2).imag == pytest.approx(-4e-30)
    assert (1 / z).imag == pytest.approx(-0.25e-30)
