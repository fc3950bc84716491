"""All golden trajectories: outputs, gradients, 30 losses, final weights."""

import golden
import numpy as np
import pytest
from strategies import scaled_error

import fastbp as fb

pytestmark = pytest.mark.parametrize("number", range(len(golden.CASES)), ids=golden.label)

# float32 rounds to 6e-8. Measured over all cases: derivatives within 1e-6, trajectories within 5e-6
# after 30 steps, but for one: under the hinge some gradients cancel to zero, and Adam divides the
# rounding noise that is left by its own size, so such a parameter drifts by whole steps of 0.01.
FLOAT32_BOUND = 2e-6
FLOAT32_TRAJECTORY_BOUND = 1e-5
FLOAT32_ADAM_ON_NOISE_BOUND = 2e-2


def penalty_gradient(case, name):
    """The golden gradients hold the penalties too; `Model.loss_and_gradient` has none."""
    W = golden.STORED[f"initial/{name}"]
    if name.endswith("bias"):
        return np.zeros_like(W)
    return case.get("l2", 0.0) * W + case.get("l1", 0.0) * np.sign(W)


def check_derivatives(number, dtype, bound):
    case, stored = golden.CASES[number], golden.STORED
    model = golden.model(case, dtype)
    X, y, w = golden.data(case)
    assert scaled_error(model.predict(X), stored[f"{number}/output"]) < bound
    _, flat = model.loss_and_gradient(X, y, golden.loss(case), w)
    gradient = fb.Model(model.network, dtype=dtype)
    gradient.parameters = flat
    for name, values in gradient.weights.items():
        expected = stored[f"{number}/gradient/{name}"] - penalty_gradient(case, name)
        assert scaled_error(values, expected) < bound, name
    by_inputs = model.input_gradient(X, y, golden.loss(case), w)
    assert scaled_error(by_inputs, stored[f"{number}/gradient/input"]) < bound


def check_trajectory(number, dtype, bound):
    case, stored = golden.CASES[number], golden.STORED
    model = golden.model(case, dtype)
    X, y, w = golden.data(case)
    penalties = {key: case[key] for key in ("clip_norm", "clip_value", "l1", "l2") if key in case}
    result = fb.train(
        model,
        X,
        y,
        loss=golden.loss(case),
        optimizer=golden.optimizer(case),
        epochs=30,
        batch_size=16,
        shuffle=False,
        sample_weight=w,
        **penalties,
    )
    assert scaled_error(result.history["loss"], stored[f"{number}/losses"]) < bound
    for name, values in model.weights.items():
        assert scaled_error(values, stored[f"{number}/final/{name}"]) < bound, name


def test_derivatives_in_float64(number):
    check_derivatives(number, "float64", 1e-12)


def test_trajectory_in_float64(number):
    check_trajectory(number, "float64", 1e-10)


def test_derivatives_in_float32(number):
    check_derivatives(number, "float32", FLOAT32_BOUND)


def test_trajectory_in_float32(number):
    noisy = (golden.CASES[number]["loss"], golden.CASES[number]["optimizer"]) == ("hinge", "adam")
    bound = FLOAT32_ADAM_ON_NOISE_BOUND if noisy else FLOAT32_TRAJECTORY_BOUND
    check_trajectory(number, "float32", bound)
