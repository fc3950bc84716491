"""`fastbp.diagnose`: finds what is built in, is silent otherwise, and its remedies help."""

import copy
import json
import math

import numpy as np
import pytest
from troubled import HEALTHY, TROUBLED, case, rows, scaled

import fastbp as fb
from fastbp.datasets import prepare_data
from fastbp.diagnosis.checks import CHECKS
from fastbp.diagnosis.loss_checks import bounds
from fastbp.diagnosis.observation import observe
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer


def diagnosed(model, X, y, keywords):
    return fb.diagnose(model, X, y, **keywords)


@pytest.mark.parametrize("name", TROUBLED)
def test_each_trouble_is_named_alone(name):
    trouble, make = TROUBLED[name]
    model, X, y, keywords = make()
    before = model.parameters.copy()
    found = diagnosed(model, X, y, keywords)
    assert [finding.trouble for finding in found.findings] == [trouble]
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None
    (finding,) = found.findings
    assert all(math.isfinite(v) or name != "overflow" for v in finding.numbers.values())
    assert finding.message in str(found)
    assert finding.remedy in str(found)
    assert not found.is_healthy


@pytest.mark.parametrize("epochs", [0, 1, 60])
@pytest.mark.parametrize("name", HEALTHY)
def test_silent_about_healthy_networks(name, epochs):
    model, X, y, keywords = HEALTHY[name]()
    if epochs:
        fb.train(model, X, y, epochs=epochs, **keywords)
        keywords.pop("standardize", None)
    found = diagnosed(model, X, y, keywords)
    assert found.findings == ()
    assert str(found).endswith("No trouble found.")


def final_loss(make, epochs=20, **remedy):
    """The loss after training, by the measure that the case itself has; infinite if it diverges."""
    model, X, y, keywords = make()
    result = fb.train(model, X, y, epochs=epochs, on_divergence="stop", **{**keywords, **remedy})
    loss = remedy.get("loss", keywords.get("loss", "mse"))
    return model.loss(X, y, loss) if result.success else math.inf


WITH_ARGUMENTS = [
    name
    for name, (trouble, _) in TROUBLED.items()
    if trouble.startswith(("learning_rate", "unscaled")) or name in {"outliers"}
]


@pytest.mark.parametrize("name", WITH_ARGUMENTS)
def test_remedies_that_are_arguments_help(name):
    """Less is left of what the best constant leaves than without them, and less than half."""
    _, make = TROUBLED[name]
    model, X, y, keywords = make()
    found = diagnosed(model, X, y, keywords)
    (finding,) = found.findings
    assert finding.arguments
    X, y = X[:1500], y[:1500]  # not the sample alone

    def part():
        model, _, _, keywords = make()
        return model, X, y, keywords

    def share(**remedy):
        """Of the squares, or of the losses, that a constant leaves."""
        model, X, y, keywords = part()
        keywords = {**keywords, **remedy}
        result = fb.train(model, X, y, epochs=60, on_divergence="stop", **keywords)
        if not result.success:
            return math.inf
        if keywords.get("loss", "mse") != "mse":
            return model.loss(X, y, keywords["loss"]) / found.constant_loss
        # Medians: of a case with outliers, those are not what counts.
        residuals = np.square(model.predict(X)[:, 0] - y)
        return float(np.median(residuals) / np.median(np.square(y - y.mean())))

    assert share(**finding.arguments) < min(0.5, 0.7 * share())


def test_a_suggested_clip_norm_tames_what_explodes():
    model, X, y, keywords = TROUBLED["large initial values"][1]()
    found = diagnosed(model, X, y, keywords)
    clip = found.findings[0].arguments["clip_norm"]
    start = model.loss(X, y)
    with pytest.raises(fb.DivergenceError):
        fb.train(copy.copy(model), X, y, epochs=20, **keywords)
    fb.train(model, X, y, epochs=20, clip_norm=clip, **keywords)
    assert model.loss(X, y) < 1e-3 * start


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("sigmoid through six layers", fb.mlp(8, *[32] * 6, 1)),
        ("small initial values", fb.mlp(8, *[32] * 6, 1, activation="tanh")),
        ("biases far below zero", fb.mlp(8, 32, 32, 1)),
        ("tanh at its ends", fb.mlp(8, 32, 1, activation="tanh")),
    ],
)
def test_remedies_that_are_other_networks_help(name, network):
    _, make = TROUBLED[name]
    _, X, y, keywords = make()
    other = fb.Model(network)
    fb.train(other, X, y, epochs=15, **keywords)
    assert diagnosed(other, X, y, keywords).findings == ()
    assert other.loss(X, y, keywords["loss"]) < 0.75 * final_loss(make, epochs=15)


# The numbers.


def seen(model, X, y, loss="mse", optimizer="adam", batch_size=256):
    resolved = Loss.resolve(loss)
    data, _, _ = prepare_data(model, X, y, None, None, False, resolved, 0)
    optimizer = Optimizer.resolve(optimizer)
    return observe(model, data, y, resolved, optimizer, batch_size, None, 0, 1, False)


def test_slope_and_curvature_of_a_quadratic_loss():
    """A linear model: the Hessian is 2/n A^T A, with A = (X, 1)."""
    X, y, _ = rows()
    X, y = X[:500], y[:500]
    model = fb.Model(fb.mlp(8, 1), dtype="float64")
    A = np.c_[X, np.ones(500)]
    gradient = 2 / 500 * A.T @ (A @ model.parameters - y)
    hessian = 2 / 500 * A.T @ A
    for optimizer in (fb.SGD(0.1), fb.Adam()):
        observation = seen(model, X, y, optimizer=optimizer, batch_size=100)
        direction = gradient
        if optimizer.step_follows == "root_mean_square":
            order = observation.sample.inputs, observation.sample.targets[:, 0]
            size = np.zeros(9)
            for k in range(16):  # of 31 rows each
                a = np.c_[order[0][31 * k : 31 * k + 31], np.ones(31)]
                part = 2 / 31 * a.T @ (a @ model.parameters - order[1][31 * k : 31 * k + 31])
                size += part**2 / 16
            direction = gradient / np.sqrt(size)
        step = observation.step
        assert step.slope == pytest.approx(gradient @ direction, rel=1e-9)
        assert step.curvature == pytest.approx(direction @ hessian @ direction, rel=1e-6)
        length = np.linalg.norm(direction) / np.linalg.norm(model.parameters)
        assert step.length == pytest.approx(length, rel=1e-9)
        best = model.parameters - step.best_rate * direction
        losses = [((A @ (best + e * direction) - y) ** 2).mean() for e in (-1e-3, 0, 1e-3)]
        assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", lambda y, c: np.var(y)),
        ("mae", lambda y, c: np.abs(y - np.median(y)).mean()),
        (
            "binary_cross_entropy",
            lambda y, c: -(c.mean() * np.log(c.mean()) + (1 - c.mean()) * np.log(1 - c.mean())),
        ),
    ],
)
def test_the_loss_of_the_best_constant(loss, expected):
    X, waves, classes = rows()
    X, waves, classes = X[:900], waves[:900], classes[:900]
    y = classes if loss == "binary_cross_entropy" else waves
    found = fb.diagnose(fb.Model(fb.mlp(8, 8, 1)), X, y, loss)
    assert found.constant_loss == pytest.approx(expected(waves, classes), rel=2e-3)


def test_layers_are_those_of_the_history():
    """Norms and shares as the statistics of training have them, for one batch of all rows."""
    X, _, classes = rows()
    X, classes = X[:300], classes[:300]
    network = fb.Network(
        8, [fb.Dense(16, "relu"), fb.LayerNorm(), fb.Dense(8, "tanh"), fb.Dense(1)]
    )
    model = scaled(network, 1, bias=-4.5)
    found = fb.diagnose(model, X, classes, "binary_cross_entropy")
    assert [layer.name for layer in found.layers] == ["0", "1", "2", "3"]
    history = fb.train(
        model, X, classes, "binary_cross_entropy", optimizer=fb.SGD(1e-12), epochs=1, batch_size=300
    ).history[0]
    for field in ("gradient_norm", "parameter_norm", "dead_share", "saturated_share"):
        mine = [getattr(layer, field) for layer in found.layers]
        np.testing.assert_allclose(mine, history[f"layer_{field}"], rtol=1e-5)
    assert found.gradient_norm == pytest.approx(history["gradient_norm"], rel=1e-5)
    assert 0 < found.layers[0].dead_share < 1


def test_bounds_of_activations():
    from fastbp.activations import Activation

    for name in ("relu", "elu", "softplus"):
        assert bounds(Activation.resolve(name))[1] == math.inf
        assert -1.01 < bounds(Activation.resolve(name))[0] <= 0.01
    assert bounds(Activation.resolve("tanh")) == (-1, 1)
    for name in ("identity", "leaky_relu"):
        assert bounds(Activation.resolve(name)) == (-math.inf, math.inf)


def test_the_report_as_text_and_data():
    model, X, y, keywords = TROUBLED["sgd too fast"][1]()
    found = diagnosed(model, X, y, keywords)
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["is_healthy"] is False
    assert data["findings"][0]["arguments"]["optimizer"]["name"] == "sgd"
    assert [layer["name"] for layer in data["layers"]] == ["0", "1"]
    text = str(found)
    assert "1,024 of 2,000 rows" in text
    assert "Dense(32, relu)" in text
    assert "learning rate 3" in text
    again = diagnosed(model, X, y, keywords)
    assert str(again) == text


def test_every_check_finds_something_here():
    """A trouble that no case has would be one that nobody ever saw found."""
    names = {check.__name__ for check in CHECKS}
    assert names == {trouble for trouble, _ in TROUBLED.values()}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"X": np.full((5, 8), np.nan)}, ValueError, "X: expected finite"),
        ({"y": np.ones(4)}, ValueError, "y: expected as many rows"),
        ({"loss": "mes"}, ValueError, "loss: expected one of"),
        ({"loss": "cross_entropy"}, ValueError, "loss: cross_entropy needs"),
        ({"optimizer": 3}, TypeError, "optimizer: expected"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm"),
        ({"standardize": 1}, TypeError, "standardize"),
        ({"threads": 0}, ValueError, "threads"),
        ({"sample_weight": -np.ones(5)}, ValueError, "sample_weight"),
        ({"model": "net"}, TypeError, "model: expected a Model"),
    ],
)
def test_refusals(change, error, match):
    arguments = {"model": fb.Model(fb.mlp(8, 4, 1)), "X": np.ones((5, 8)), "y": np.ones(5)}
    with pytest.raises(error, match=match):
        fb.diagnose(**{**arguments, **change})


def test_weights_of_zero_and_one_row():
    model, X, y, _ = case(fb.mlp(8, 4, 1))
    weights = np.zeros(len(X))
    weights[7] = 1
    assert math.isfinite(fb.diagnose(model, X, y, sample_weight=weights).loss)
    assert math.isfinite(fb.diagnose(model, X[:1], y[:1]).loss)
