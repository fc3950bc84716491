"""Networks of every kind of layer: gradients against complex step, and all that a network is for."""

import copy
import json

import numpy as np
import pytest
import reference
import reference_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LayeredCase, layered_cases, scaled_error

import fastbp as fb
from fastbp.layers import Layer
from fastbp.losses import Loss

BOUND = 1e-12  # scaled error in float64 against complex step
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)

# Every kind inside every kind that can hold it, first and last, and next to every other.
NESTED = LayeredCase(
    6,
    (
        ("dropout", 0.3),
        ("layer_norm", 1e-5),
        ("residual", (("layer_norm", 1e-3), ("dense", 5, "tanh"), ("dense", 6, "gelu"))),
        ("dense", 4, "silu"),
        (
            "residual",
            (
                ("dropout", 0.5),
                ("residual", (("dense", 4, "sine"), ("dropout", 0.2))),
                ("residual", (("layer_norm", 0.1), ("residual", (("dense", 4, "mish"),)))),
            ),
        ),
        ("layer_norm", 1e-5),
        ("dropout", 0.1),
    ),
    "mse",
    9,
    5,
)


def arguments(case):
    return case.layers, case.parameters(), case.draw_inputs(), case.targets(), case.loss


def every_coordinate(case):
    for place, array in enumerate(case.parameters()):
        yield from ((place, index) for index in np.ndindex(*array.shape))


def complex_step_by_inputs(case, X, function):
    """d function(outputs) / d X, where row i of the result depends on row i alone."""
    columns = []
    for k in range(case.inputs):
        stepped = X.astype(complex)
        stepped[:, k] += 1j * reference.STEP
        outputs, _ = reference_layers.apply(case.layers, case.parameters(), stepped)
        columns.append(np.imag(function(outputs)) / reference.STEP)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("loss", Loss.names())
def test_every_parameter_of_a_nested_network_against_complex_step(loss):
    case = LayeredCase(NESTED.inputs, NESTED.layers, loss, 9, 5)
    w = case.sample_weight()
    value, gradient = case.model().loss_and_gradient(case.draw_inputs(), case.targets(), loss, w)
    expected = [
        reference_layers.complex_step_gradient(*arguments(case), *place, sample_weight=w)
        for place in every_coordinate(case)
    ]
    outputs, _ = reference_layers.apply(*arguments(case)[:3])
    assert scaled_error(value, reference.batch_loss(loss, outputs, case.targets(), w)) < BOUND
    assert scaled_error(gradient, np.array(expected)) < BOUND


@given(case=layered_cases(), weighted=st.booleans())
@settings(max_examples=120)
def test_random_networks_against_complex_step_and_the_chain_rule(case, weighted):
    w = case.sample_weight() if weighted else None
    X, y = case.draw_inputs(), case.targets()
    model = case.model()
    value, gradient = model.loss_and_gradient(X, y, case.loss, w)
    loss, arrays, by_inputs = reference_layers.backpropagation(*arguments(case), w)
    expected = np.concatenate([array.ravel() for array in arrays])
    assert scaled_error(value, loss) < BOUND
    assert scaled_error(gradient, expected) < BOUND
    assert scaled_error(model.loss(X, y, case.loss, w), loss) < BOUND
    assert scaled_error(model.input_gradient(X, y, case.loss, w), by_inputs) < BOUND
    coordinates = list(every_coordinate(case))
    largest = max(1.0, np.abs(expected).max())
    rng = case.generator(9)
    for i in rng.choice(len(coordinates), min(6, len(coordinates)), replace=False):
        exact = reference_layers.complex_step_gradient(
            *arguments(case), *coordinates[i], sample_weight=w
        )
        assert abs(gradient[i] - exact) / largest < BOUND


@given(case=layered_cases(most_rows=5))
@settings(max_examples=50)
def test_vjp_and_jacobian_against_complex_step(case):
    model, X = case.model(), case.draw_inputs()
    jacobian = complex_step_by_inputs(case, X, lambda outputs: outputs)
    assert scaled_error(model.jacobian(X), jacobian) < BOUND
    v = case.generator(7).normal(size=(len(X), case.network.outputs))
    expected = np.einsum("io,iok->ik", v, jacobian)
    assert scaled_error(model.vjp(X, v), expected) < BOUND


@given(case=layered_cases())
@settings(max_examples=50)
def test_float32_within_its_rounding(case):
    """Of the outputs of each layer's sums; deviations of a few rows may be small beside them."""
    outputs, _ = reference_layers.apply(*arguments(case)[:3])
    found = case.model("float32").predict(case.draw_inputs())
    assert found.dtype == np.float32
    members = list(case.network.members())
    widest = max(case.inputs, *case.network.widths)
    bound = 200 * FLOAT32_EPSILON * (len(members) + widest) / 2
    assert scaled_error(found, outputs) < bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", [1, 2])
def test_rows_of_one_and_two_values(features, dtype):
    """One value is its own mean: the bias is all that is left, and no gradient passes."""
    model = fb.Model(fb.Network(features, [fb.LayerNorm()]), dtype=dtype)
    model.weights["0.bias"][...] = 0.25
    X = np.array([[3.0, -1.0], [1e4, 1e4], [0.0, 0.0]])[:, :features]
    found = model.predict(X)
    if features == 1:
        assert (found == 0.25).all()
        assert not model.jacobian(X).any()
    else:
        expected = 0.25 + np.array([[2.0, -2.0], [0, 0], [0, 0]]) / np.sqrt(4 + 1e-5)
        assert np.allclose(found, expected, rtol=1e-6, atol=1e-7)


@given(case=layered_cases())
@settings(max_examples=30)
def test_a_rows_prediction_does_not_depend_on_its_batch(case):
    """Alone on the path for a few rows, alone on the ordinary one, and among others."""
    for dtype in ("float32", "float64"):
        model = case.model(dtype)
        X = case.draw_inputs().astype(dtype)
        whole = model.predict(np.vstack([X] * 20))[: case.rows]
        for i in {0, case.rows // 2, case.rows - 1}:
            assert np.array_equal(model.predict(X[i : i + 1].copy())[0], whole[i])
            assert np.array_equal(model.predict(X[i : i + 1].tolist())[0], whole[i])
        few = min(case.rows, 7)
        assert np.array_equal(model.predict(X[:few].copy()), whole[:few])


def test_a_model_comes_back_to_the_bit(tmp_path):
    model = NESTED.model("float32")
    X = NESTED.draw_inputs()
    for other in (copy.copy(model), copy.deepcopy(model)):
        assert other.network == model.network
        assert np.array_equal(other.predict(X), model.predict(X))
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = fb.load(path)
    assert loaded.network == model.network
    assert list(loaded.weights) == list(model.weights)
    assert np.array_equal(loaded.parameters, model.parameters)
    assert np.array_equal(loaded.predict(X), model.predict(X))


@given(case=layered_cases())
@settings(max_examples=30)
def test_descriptions_come_back(case):
    network = case.network
    described = json.loads(json.dumps(network.describe()))
    assert fb.Network.from_description(described) == network
    assert hash(fb.Network.from_description(described)) == hash(network)


def test_names_and_words():
    block = fb.Residual([fb.Dense(3, "relu"), fb.Residual([fb.Dense(3)]), fb.Dropout(0.25)])
    network = fb.Network(3, [fb.Dropout(0.5), block, fb.LayerNorm(), fb.Dense(2)])
    names = "1.0.weight 1.0.bias 1.1.0.weight 1.1.0.bias 2.gain 2.bias 3.weight 3.bias".split()
    assert [name for name, _ in network.parameters()] == names
    assert list(fb.Model(network).weights) == names
    assert [name for name, *_ in network.members()] == ["0", "1.0", "1.1.0", "1.2", "2", "3"]
    assert network.widths == (3, 3, 3, 3, 3, 2)
    assert str(network) == (
        "3 -> Dropout(0.5) -> Residual(Dense(3, relu) -> Residual(Dense(3, identity)) -> "
        "Dropout(0.25)) -> LayerNorm() -> Dense(2, identity)"
    )
    assert fb.LayerNorm(0.001).label() == "LayerNorm(0.001)"
    model = fb.Model(network)
    for words in ("Dropout(0.5)", "LayerNorm()", "Residual(Dense(3, relu)", "38 parameters"):
        assert words in model.summary()
    assert (model.weights["2.gain"] == 1).all()
    assert not model.weights["2.bias"].any()
    assert {"dropout", "layer_norm", "residual", "dense"} <= set(Layer.names())


DENSE = fb.Dense(3)
# fmt: off
WRONG = {
    "rate 1": (lambda: fb.Dropout(1.0), ValueError, r"rate: expected a finite number in \[0, 1\); got 1.0"),
    "rate below 0": (lambda: fb.Dropout(-0.1), ValueError, "rate: expected"),
    "rate nan": (lambda: fb.Dropout(float("nan")), ValueError, "rate: expected"),
    "rate word": (lambda: fb.Dropout("half"), TypeError, "rate: expected a number; got str"),
    "rate bool": (lambda: fb.Dropout(True), TypeError, "rate: expected a number; got bool"),
    "epsilon 0": (lambda: fb.LayerNorm(0.0), ValueError, r"epsilon: expected a finite number in \(0"),
    "epsilon inf": (lambda: fb.LayerNorm(float("inf")), ValueError, "epsilon: expected"),
    "epsilon None": (lambda: fb.LayerNorm(None), TypeError, "epsilon: expected a number; got NoneType"),
    "no list": (lambda: fb.Residual(DENSE), TypeError, "layers: expected a sequence of layers; got one layer"),
    "no sequence": (lambda: fb.Residual(3), TypeError, "layers: expected a sequence of layers; got int"),
    "no layers": (lambda: fb.Residual([]), ValueError, "layers: expected at least one layer; got none"),
    "no layer": (lambda: fb.Residual([DENSE, "relu"]), TypeError, r"layers\[1\]: expected a fastbp layer"),
    "no parameters": (lambda: fb.Residual([fb.Dropout(0.5)]), ValueError, r"layers: expected one with parameters, as Dense; got Dropout\(0.5\)"),
    "network without": (lambda: fb.Network(3, [fb.Dropout(0.5)]), ValueError, "layers: expected one with parameters"),
    "another size": (lambda: fb.Network(4, [DENSE, fb.Residual([DENSE, fb.Dense(5)])]), ValueError, "layers: expected a Residual of 3 inputs to end with 3 outputs; got sizes 3 -> 3 -> 5"),
    "another size inside": (lambda: fb.Network(4, [fb.Residual([fb.Residual([DENSE]), fb.Dense(4)])]), ValueError, "a Residual of 4 inputs to end with 4 outputs; got sizes 4 -> 3"),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    make, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        make()
