"""Gradients of random networks on a simulated GPU, against the chain rule in NumPy."""

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import ON_GPU
from strategies import Case, scaled_error

from fastbp.activations import Activation
from fastbp.losses import Loss

pytestmark = pytest.mark.usefixtures("gpu")

BOUND = 1e-12  # scaled, float64
# On a GPU each network is some six kernels of its own, which take seconds each to compile, one
# after the other.
EXAMPLES = 2 if ON_GPU else 6


@st.composite
def small_cases(draw):
    """Depth 1 to 3, widths about a vector and a panel, up to 40 rows."""
    depth = draw(st.integers(1, 3))
    sizes = tuple(draw(st.sampled_from([1, 2, 3, 5, 17, 33])) for _ in range(depth + 1))
    activations = tuple(draw(st.sampled_from(Activation.names())) for _ in range(depth))
    loss = draw(st.sampled_from(Loss.names()))
    return Case(
        sizes, activations, loss, draw(st.sampled_from([1, 7, 32, 40])), draw(st.integers(0, 99))
    )


@pytest.mark.parametrize("way", ["fused", "layered"], indirect=True)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(case=small_cases())
def test_against_the_chain_rule(way, case):
    model, w = case.model(), case.sample_weight()
    X, y = case.inputs(), case.targets()
    value, gradient = model.loss_and_gradient(X, y, case.loss, sample_weight=w, device="cuda")
    expected_value, expected, _ = reference.backpropagation(
        case.weights(), case.activations, X, y, case.loss, sample_weight=w
    )
    flat = np.concatenate([np.concatenate([dW.ravel(), db]) for dW, db in expected])
    assert abs(value - expected_value) <= BOUND * max(1.0, abs(expected_value))
    assert scaled_error(gradient, flat) < BOUND
