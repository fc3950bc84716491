"""Activations and losses with other settings than the defaults, against complex step.

With a setting of 1, a derivative that forgets it is right.
"""

import numpy as np
import pytest
import reference
from strategies import scaled_error

import fastbp as fb

BOUND = 1e-12


def elu(z, alpha):
    below = reference.where(z.real > 0, 0, z)
    return reference.where(z.real > 0, z, alpha * np.expm1(below))


def leaky_relu(z, slope):
    return reference.where(z.real > 0, z, slope * z)


ACTIVATIONS = [fb.Elu(0.3), fb.Elu(1.7), fb.LeakyRelu(0.25), fb.LeakyRelu(-0.5)]
LOSSES = [fb.Huber(0.4), fb.Huber(2.5), fb.Quantile(0.1), fb.Quantile(0.75)]
FUNCTIONS = {"elu": elu, "leaky_relu": leaky_relu}
KEYWORDS = {"huber": "delta", "quantile": "q"}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_with_other_settings(activation):
    """The law in the interpreter, then the slope of a compiled network."""
    function, (setting,) = FUNCTIONS[activation.name], activation.settings
    z = np.array([-6.0, -1.3, -0.2, 0.4, 2.1])
    found = np.array([activation.law(float(each), activation.settings) for each in z])
    expected = function(z, setting), reference.derivative(lambda each: function(each, setting), z)
    for i in range(2):
        assert scaled_error(found[:, i], expected[i]) < BOUND
    model = fb.Model(fb.Network(1, [fb.Dense(1, activation)]), dtype="float64")
    model.parameters = [1.0, 0.0]
    assert scaled_error(model.predict(z[:, None])[:, 0], expected[0]) < BOUND
    assert scaled_error(model.jacobian(z[:, None])[:, 0, 0], expected[1]) < BOUND


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_with_other_settings(loss):
    """The law in the interpreter, then loss and gradient of a compiled network, all its rows."""
    (setting,) = loss.settings
    keywords = {KEYWORDS[loss.name]: setting}
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(23, 3)), 2 * rng.normal(size=(23, 2))
    weights = [(rng.normal(size=(3, 2)), rng.normal(size=2))]
    outputs = X @ weights[0][0] + weights[0][1]
    found = [
        loss.law(float(o), float(t), loss.settings)
        for o, t in zip(outputs.flat, y.flat, strict=True)
    ]
    laws = reference.ELEMENTWISE_LOSSES[loss.name]
    slopes = reference.derivative(lambda each: laws(each, y, **keywords), outputs)
    assert scaled_error([each[0] for each in found], laws(outputs, y, **keywords).ravel()) < BOUND
    assert scaled_error([each[1] for each in found], slopes.ravel()) < BOUND
    model = fb.Model(fb.mlp(3, 2), dtype="float64")
    model.weights["0.weight"][...], model.weights["0.bias"][...] = weights[0]
    value, gradient = model.loss_and_gradient(X, y, loss)
    expected, pairs, _ = reference.backpropagation(
        weights, ["identity"], X, y, loss.name, **keywords
    )
    assert scaled_error(value, expected) < BOUND
    assert scaled_error(gradient, np.concatenate([each.ravel() for each in pairs[0]])) < BOUND
