"""What must hold for any network, whatever its numbers."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import cases, scaled_error

import fastbp as fb


@given(case=cases(), cut=st.floats(0.0, 1.0))
@settings(max_examples=50)
def test_gradient_of_a_batch_is_the_weighted_sum_of_its_parts(case, cut):
    assume(case.rows > 1)
    k = min(max(1, round(cut * case.rows)), case.rows - 1)
    model, w = case.model(), case.sample_weight()
    X, y = case.inputs(), case.targets()
    _, whole = model.loss_and_gradient(X, y, case.loss, w)
    parts = np.zeros_like(whole)
    for rows in (slice(0, k), slice(k, None)):
        _, part = model.loss_and_gradient(X[rows], y[rows], case.loss, w[rows])
        parts += part * (w[rows].sum() / w.sum())
    assert scaled_error(parts, whole) < 1e-12


@given(case=cases())
@settings(max_examples=40)
def test_permuting_rows(case):
    """Outputs follow the rows to the bit; the gradient is the same up to the order of a sum."""
    order = case.generator(5).permutation(case.rows)
    model = case.model()
    X, y = case.inputs(), case.targets()
    assert np.array_equal(model.predict(X[order]), model.predict(X)[order])
    _, before = model.loss_and_gradient(X, y, case.loss)
    _, after = model.loss_and_gradient(X[order], y[order], case.loss)
    assert scaled_error(after, before) < 1e-12


@given(case=cases(depths=(2, 5)), data=st.data())
@settings(max_examples=40)
def test_permuting_hidden_units_changes_nothing(case, data):
    model = case.model()
    layer = data.draw(st.integers(0, len(case.sizes) - 3))
    order = case.generator(6).permutation(case.sizes[layer + 1])
    X, y = case.inputs(), case.targets()
    outputs, loss = model.predict(X), model.loss(X, y, case.loss)
    w = model.weights
    w[f"{layer}.weight"][...] = w[f"{layer}.weight"][:, order]
    w[f"{layer}.bias"][...] = w[f"{layer}.bias"][order]
    w[f"{layer + 1}.weight"][...] = w[f"{layer + 1}.weight"][order]
    assert scaled_error(model.predict(X), outputs) < 1e-12
    assert scaled_error(model.loss(X, y, case.loss), loss) < 1e-12


@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 20),
    rows=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_a_linear_network_against_its_closed_form(inputs, outputs, rows, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(rows, inputs)), rng.normal(size=(rows, outputs))
    W, b = rng.normal(size=(inputs, outputs)), rng.normal(size=outputs)
    model = fb.Model(fb.mlp(inputs, outputs), dtype="float64")
    model.weights["0.weight"][...], model.weights["0.bias"][...] = W, b
    residuals = X @ W + b - Y
    _, gradient = model.loss_and_gradient(X, Y, "mse")
    scale = 2.0 / residuals.size
    expected = np.concatenate([(scale * X.T @ residuals).ravel(), scale * residuals.sum(axis=0)])
    assert scaled_error(gradient, expected) < 1e-12
    assert scaled_error(model.loss(X, Y), np.mean(residuals**2)) < 1e-12
    assert (
        scaled_error(model.jacobian(X[:3]), np.broadcast_to(W.T, (min(rows, 3), *W.T.shape))) == 0
    )


@given(
    case=cases(activations=["relu", "leaky_relu", "identity"], depths=(2, 5)),
    powers=st.lists(st.integers(-20, 20), min_size=5, max_size=5),
    dtype=st.sampled_from(["float32", "float64"]),
)
@settings(max_examples=60)
def test_rescaling_relu_layers_by_powers_of_two_changes_no_bit(case, powers, dtype):
    """Each hidden layer times 2**p, undone in the next: every rounding is the same."""
    model = case.model(dtype)
    X = case.inputs()
    before = model.predict(X)
    depth = len(case.sizes) - 1
    total = 0.0
    for layer in range(depth):
        own = float(powers[layer]) if layer < depth - 1 else 0.0
        weight, bias = model.weights[f"{layer}.weight"], model.weights[f"{layer}.bias"]
        weight *= weight.dtype.type(2.0 ** (own - total))
        bias *= bias.dtype.type(2.0**own)
        total = own
    # The last layer's output is not rescaled.
    assert np.array_equal(model.predict(X), before)


@given(case=cases(), data=st.data())
@settings(max_examples=60)
def test_a_prediction_depends_on_its_row_alone(case, data):
    """predict(X)[i] is predict(X[i:i+1])[0], bit for bit, in both precisions."""
    model = case.model(data.draw(st.sampled_from(["float32", "float64"])))
    X = case.inputs()
    whole = model.predict(X)
    for i in data.draw(st.lists(st.integers(0, case.rows - 1), min_size=1, max_size=4)):
        assert np.array_equal(model.predict(X[i : i + 1])[0], whole[i])
    k = data.draw(st.integers(1, case.rows))
    assert np.array_equal(model.predict(X[:k]), whole[:k])
