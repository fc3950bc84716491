"""Gradients of random networks against complex step, finite differences and the chain rule."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, scaled_error

from fastbp.activations import Activation
from fastbp.losses import Loss

BOUND = 1e-12  # scaled error in float64 against complex step
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


def arguments(case, sample_weight=None):
    return case.weights(), case.activations, case.inputs(), case.targets(), case.loss, sample_weight


def split(case, flat):
    """A flat gradient as [(dW, db), ...]."""
    pieces, start = [], 0
    for m, n in itertools.pairwise(case.sizes):
        W = flat[start : start + m * n].reshape(m, n)
        b = flat[start + m * n : start + m * n + n]
        pieces.append((W, b))
        start += m * n + n
    return pieces


def every_coordinate(case):
    for layer, (m, n) in enumerate(itertools.pairwise(case.sizes)):
        yield from ((layer, 0, index) for index in np.ndindex(m, n))
        yield from ((layer, 1, (j,)) for j in range(n))


def sampled_coordinates(case, count):
    coordinates = list(every_coordinate(case))
    rng = case.generator(9)
    chosen = rng.choice(len(coordinates), min(count, len(coordinates)), replace=False)
    return [coordinates[i] for i in chosen]


@pytest.mark.parametrize("loss", Loss.names())
@pytest.mark.parametrize("activation", Activation.names())
def test_every_activation_and_loss_against_complex_step(activation, loss):
    """All parameters of one small network, weighted rows, hidden and last layer activated."""
    case = Case((3, 5, 4, 3), (activation,) * 3, loss, 7, 11)
    w = case.sample_weight()
    value, gradient = case.model().loss_and_gradient(
        case.inputs(), case.targets(), loss, sample_weight=w
    )
    expected = np.array(
        [
            reference.complex_step_gradient(*arguments(case)[:-1], *place, sample_weight=w)
            for place in every_coordinate(case)
        ]
    )
    outputs = reference.forward(case.weights(), case.activations, case.inputs())
    assert scaled_error(value, reference.batch_loss(loss, outputs, case.targets(), w)) < BOUND
    assert scaled_error(gradient, expected) < BOUND


@given(case=cases(), weighted=st.booleans())
@settings(max_examples=120)
def test_random_networks_against_complex_step_and_the_chain_rule(case, weighted):
    w = case.sample_weight() if weighted else None
    model = case.model()
    value, gradient = model.loss_and_gradient(case.inputs(), case.targets(), case.loss, w)
    loss, pairs, by_inputs = reference.backpropagation(*arguments(case, w))
    expected = np.concatenate([array.ravel() for pair in pairs for array in pair])
    assert scaled_error(value, loss) < BOUND
    assert scaled_error(gradient, expected) < BOUND
    found = model.input_gradient(case.inputs(), case.targets(), case.loss, w)
    assert scaled_error(found, by_inputs) < BOUND
    pieces = split(case, gradient)
    largest = max(1.0, np.abs(expected).max())
    for layer, which, index in sampled_coordinates(case, 6):
        exact = reference.complex_step_gradient(
            *arguments(case)[:-1], layer, which, index, sample_weight=w
        )
        assert abs(pieces[layer][which][index] - exact) / largest < BOUND


@pytest.mark.parametrize("rows", [1, 9])
def test_sums_longer_than_a_block(rows):
    """Inputs, units and outputs beyond the depth that a product takes at a time."""
    case = Case((1030, 20, 1030, 9), ("tanh", "tanh", "identity"), "mse", rows, 5)
    model = case.model()
    value, gradient = model.loss_and_gradient(case.inputs(), case.targets(), "mse")
    loss, pairs, by_inputs = reference.backpropagation(*arguments(case))
    assert scaled_error(value, loss) < BOUND
    expected = np.concatenate([array.ravel() for pair in pairs for array in pair])
    assert scaled_error(gradient, expected) < BOUND
    assert scaled_error(model.input_gradient(case.inputs(), case.targets()), by_inputs) < BOUND


@pytest.mark.parametrize("loss", Loss.names())
@pytest.mark.parametrize("activation", Activation.names())
def test_against_central_finite_differences_of_the_model_itself(activation, loss):
    """Needs no reference: only that the loss is what it says, and the gradient its slope."""
    case = Case((3, 4, 2), (activation, "identity"), loss, 5, 23)
    model = case.model()
    X, y = case.inputs(), case.targets()
    _, gradient = model.loss_and_gradient(X, y, loss)
    step = 1e-5
    for i in range(gradient.size):
        kept = model.parameters[i]
        model.parameters[i] = kept + step
        above = model.loss(X, y, loss)
        model.parameters[i] = kept - step
        below = model.loss(X, y, loss)
        model.parameters[i] = kept
        slope = (above - below) / (2 * step)
        # Truncation is O(step**2), cancellation O(rounding / step).
        assert abs(slope - gradient[i]) < 1e-8 * max(1.0, abs(above), np.abs(gradient).max())


@given(case=cases())
@settings(max_examples=60)
def test_float32_within_its_rounding(case):
    value, gradient = case.model("float32").loss_and_gradient(
        case.inputs(), case.targets(), case.loss
    )
    loss, pairs, _ = reference.backpropagation(*arguments(case))
    expected = np.concatenate([array.ravel() for pair in pairs for array in pair])
    # Errors of sums grow with their terms, and pass through every layer. (400 random networks stay
    # below a quarter of this; no sum of theirs rounds to the other side of a kink.)
    bound = FLOAT32_EPSILON * (len(case.sizes) + max(case.sizes)) / 2 * max(1.0, loss)
    assert scaled_error(gradient, expected) < bound
    assert abs(value - loss) < bound * max(1.0, abs(loss))


@given(case=cases(depths=(1, 3)))
@settings(max_examples=40)
def test_vjp_and_jacobian_against_complex_step(case):
    model = case.model()
    X = case.inputs()[:5]
    jacobian = np.empty((len(X), case.sizes[-1], case.sizes[0]))
    for k in range(case.sizes[0]):
        stepped = X.astype(complex)
        stepped[:, k] += 1j * reference.STEP
        outputs = reference.forward(case.weights(), case.activations, stepped)
        jacobian[:, :, k] = np.imag(outputs) / reference.STEP
    assert scaled_error(model.jacobian(X), jacobian) < BOUND
    v = case.generator(7).normal(size=(len(X), case.sizes[-1]))
    expected = np.einsum("io,iok->ik", v, jacobian)
    assert scaled_error(model.vjp(X, v), expected) < BOUND
