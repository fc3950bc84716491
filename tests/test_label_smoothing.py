"""Losses with label smoothing: gradients, trainings and what they are without it."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import WAYS, both
from strategies import Case, cases, scaled_error

import fastbp as fb
from fastbp.backends.choose import geometry
from fastbp.losses import Loss
from fastbp.plan import build_plan

SMOOTHED = [fb.CrossEntropy, fb.BinaryCrossEntropy]
kinds = pytest.mark.parametrize("kind", SMOOTHED)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def plan_of(loss, network=None, rows=32, purpose="train"):
    network = network or fb.mlp(3, 4, 2)
    optimizer = fb.Adam() if purpose == "train" else None
    shapes = geometry("cpu")
    return build_plan(network, purpose, "float32", rows, shapes, loss=loss, optimizer=optimizer)


def flat(pairs):
    return np.concatenate([array.ravel() for pair in pairs for array in pair])


@kinds
@pytest.mark.parametrize("zero", [0.0, 0, -0.0])
def test_no_smoothing_is_the_loss_without_any(kind, zero):
    loss, named = kind(label_smoothing=zero), Loss.resolve(kind.name)
    assert loss == named == kind()
    assert loss.settings == ()
    assert loss.law is kind.law
    for network in (fb.mlp(3, 4, 2), fb.mlp(3, 4, 70)):
        for rows in (32, 200):  # with rows in lanes and without
            assert plan_of(loss, network, rows) == plan_of(named, network, rows)


@kinds
def test_smoothing_is_a_law_or_a_kernel_of_its_own(kind):
    loss = kind(label_smoothing=0.1)
    (step,) = [step for step in plan_of(loss).propagation if step.kernel.endswith("_loss")]
    (plain,) = [step for step in plan_of(kind()).propagation if step.kernel.endswith("_loss")]
    assert (step.kernel, step.law and step.law.law) != (plain.kernel, plain.law and plain.law.law)
    assert loss.settings == (0.1,)
    assert Loss.from_description(loss.describe()) == loss != kind()
    assert replace(loss, label_smoothing=0.0) == kind()
    assert replace(loss, label_smoothing=0.0).law is kind.law


@kinds
@pytest.mark.parametrize("value", [1.0, -0.1, 1.5, np.nan, np.inf])
def test_smoothing_outside_its_interval(kind, value):
    with pytest.raises(ValueError, match=r"label_smoothing: expected a finite number in \[0, 1\)"):
        kind(label_smoothing=value)


@kinds
@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_smoothing_that_is_no_number(kind, value):
    with pytest.raises(TypeError, match="label_smoothing: expected a number; got"):
        kind(label_smoothing=value)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 0.999])
def test_the_binary_law_runs_in_the_interpreter(smoothing):
    loss = fb.BinaryCrossEntropy(smoothing)
    for target in (0.0, 0.25, 1.0):

        def function(o, target=target):
            return reference.binary_cross_entropy(o, target, smoothing)

        for o in np.array([-700.0, -3.1, -0.3, 0.01, 0.8, 6.7, 700.0]):
            value, slope = loss.law(float(o), target, loss.settings)
            assert value == pytest.approx(float(function(o)), rel=1e-12, abs=1e-300)
            exact = float(reference.derivative(function, o))
            assert slope == pytest.approx(exact, rel=1e-12, abs=1e-14)


SMOOTHINGS = st.one_of(
    st.floats(0.0, 1.0, exclude_max=True),
    st.sampled_from([1e-12, 0.05, 0.1, float(np.nextafter(1.0, 0.0))]),
)


@given(
    case=cases(losses=[kind.name for kind in SMOOTHED]),
    smoothing=SMOOTHINGS,
    weighted=st.booleans(),
)
@settings(max_examples=60)
def test_gradients_against_complex_step(case, smoothing, weighted):
    w = case.sample_weight() if weighted else None
    loss = Loss.registry[case.loss](label_smoothing=smoothing)
    model, X, y = case.model(), case.inputs(), case.targets()
    problem = case.weights(), case.activations, X, y, case.loss
    value, gradient = model.loss_and_gradient(X, y, loss, sample_weight=w)
    exact = reference.backpropagation(*problem, w, label_smoothing=smoothing)
    assert scaled_error(value, exact[0]) < 1e-12
    assert scaled_error(model.loss(X, y, loss, sample_weight=w), exact[0]) < 1e-12
    assert scaled_error(gradient, flat(exact[1])) < 1e-12
    assert scaled_error(model.input_gradient(X, y, loss, w), exact[2]) < 1e-12
    last = len(case.sizes) - 2, 1, (0,)
    slope = reference.complex_step_gradient(
        *problem, *last, sample_weight=w, label_smoothing=smoothing
    )
    found = gradient[-case.sizes[-1]]
    assert abs(found - slope) < 1e-12 * max(1.0, np.abs(gradient).max())


# Few classes and a thousand, and many on rows of more than a block; with rows in lanes and without.
SHAPES = [((3, 5, 4), 40, False), ((5, 20, 19), 300, True), ((6, 9, 1000), 30, False)]
SHAPES += [((16, 8, 330), 200, False), ((3, 16, 2), 129, True)]


@functools.cache
def exact_derivatives(case):
    """Loss and gradient of a case with the smoothing 0.15 and every third row of weight zero."""
    w = case.sample_weight()
    w[::3] = 0.0
    problem = case.weights(), case.activations, case.inputs(), case.targets(), case.loss, w
    value, pairs, _ = reference.backpropagation(*problem, label_smoothing=0.15)
    return value, flat(pairs), w


@dtypes
@kinds
@pytest.mark.parametrize(("sizes", "rows", "in_lanes"), SHAPES)
def test_gradients_of_few_and_of_many_classes(sizes, rows, in_lanes, kind, dtype):
    case = Case(sizes, ("tanh",) * (len(sizes) - 2) + ("identity",), kind.name, rows, 7)
    loss = kind(label_smoothing=0.15)
    exact, exact_gradient, w = exact_derivatives(case)
    assert plan_of(loss, case.network, rows, "gradient").in_lanes == in_lanes
    X, y = case.inputs(), case.targets()
    value, gradient = case.model(dtype).loss_and_gradient(X, y, loss, sample_weight=w)
    bound = {"float32": 2e-6, "float64": 1e-12}[dtype]
    assert scaled_error(value, exact) < bound
    assert scaled_error(gradient, exact_gradient) < bound


@dtypes
@pytest.mark.parametrize("rows", [20, 200])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_have_finite_losses_and_exact_gradients(rows, size, dtype):
    """p is 1 for the largest and 0 for all others, and no infinity times 0 comes of it."""
    model = fb.Model(fb.mlp(2, 4), dtype=dtype)
    model.parameters[:] = 0.0
    model.weights["0.bias"][:] = size, 0.0, -size, size / 2
    X, y = np.ones((rows, 2)), np.full(rows, 2)
    value, gradient = model.loss_and_gradient(X, y, fb.CrossEntropy(0.2))
    distances = np.array([0.0, 1.0, 2.0, 0.5])
    target = np.array([0.05, 0.05, 0.85, 0.05])
    rounding = 4 * float(np.finfo(dtype).eps)
    assert value == pytest.approx(size * (target @ distances), rel=rounding)
    assert gradient[-4:] == pytest.approx([0.95, -0.05, -0.85, -0.05], rel=rounding)


@dtypes
@pytest.mark.parametrize("rows", [40, 200])
@kinds
def test_a_row_of_weight_zero_may_have_an_infinite_loss(kind, rows, dtype):
    model = fb.Model(fb.mlp(2, 3), dtype=dtype, seed=1)
    X = np.random.default_rng(0).normal(size=(rows, 2))
    y = np.zeros(rows, int) if kind is fb.CrossEntropy else np.zeros((rows, 3))
    w, good = np.ones(rows), np.arange(rows) != 7
    X[7], w[7] = np.finfo(dtype).max, 0.0
    model.weights["0.weight"][...] = np.sign(model.weights["0.weight"]) * 2
    loss = kind(0.1)
    assert not np.isfinite(model.loss(X, y, loss))
    found = model.loss_and_gradient(X, y, loss, sample_weight=w)
    expected = model.loss_and_gradient(X[good], y[good], loss)
    bound = 20 * float(np.finfo(dtype).eps)
    assert found[0] == pytest.approx(expected[0], rel=bound)
    assert scaled_error(found[1], expected[1]) < bound


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_probabilities_come_to_the_smoothed_targets(smoothing):
    """Where inputs say nothing, the least loss is at the smoothed frequencies of the classes."""
    X, labels = np.zeros((40, 1)), np.repeat([0, 1], [30, 10])
    loss = fb.CrossEntropy(smoothing)
    model = fb.Model(fb.mlp(1, 3), dtype="float64")
    fb.train(model, X, labels, loss=loss, optimizer=fb.SGD(1.0), epochs=400)
    expected = np.array([0.75, 0.25, 0.0]) * (1 - smoothing) + smoothing / 3
    assert np.allclose(loss.response(model.predict(X[:1])), expected, atol=1e-6)
    loss = fb.BinaryCrossEntropy(smoothing)
    model = fb.Model(fb.mlp(1, 1), dtype="float64")
    fb.train(model, X, labels, loss=loss, optimizer=fb.SGD(1.0), epochs=400)
    expected = 0.25 * (1 - smoothing) + smoothing / 2
    assert np.allclose(loss.response(model.predict(X[:1])), expected, atol=1e-6)


@kinds
@pytest.mark.parametrize(
    ("way", "dtype"), [*zip(WAYS, 2 * ["float32", "float64"], strict=True)], indirect=["way"]
)
@pytest.mark.usefixtures("gpu")
def test_training_on_a_gpu(kind, way, dtype):
    """The second of two batches has the parameters that the first one's loss led to."""
    rng = np.random.default_rng(6)
    X, w = rng.normal(size=(23, 3)), rng.uniform(size=23)
    y = rng.integers(0, 4, 23) if kind is fb.CrossEntropy else rng.uniform(size=(23, 4))
    both(
        fb.mlp(3, 5, 4, activation="tanh"), X, y, dtype, loss=kind(0.2), epochs=1, batch_size=9,
        optimizer=fb.Adam(0.01), sample_weight=w, validation=0.2,
    )  # fmt: skip
