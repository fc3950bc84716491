"""Networks with a trouble built in, and healthy ones, for what finds the one and spares the other.

A case is a function without arguments that gives a model, X, y, and keywords of `fastbp.train`.
"""

import functools

import numpy as np

import fastbp as fb


@functools.cache
def rows():
    """X (2000, 8) of about unit size, a function of it that is soon learned, and classes."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(2000, 8))
    waves = np.sin(2 * X[:, 0]) + X[:, 1] + 0.05 * rng.normal(size=2000)
    classes = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(float)
    return X, waves, classes


def scaled(network, factor, bias=0.0):
    """A model with all weights so many times the usual ones, and another bias in hidden layers."""
    model = fb.Model(network)
    last = len(network.layers) - 1
    for name, values in model.weights.items():
        if name.endswith("weight"):
            values[...] *= factor
        elif not name.startswith(f"{last}."):
            values[...] += bias
    return model


def case(model, y="waves", X=None, **keywords):
    """On the rows, or on others that were made from them."""
    inputs, waves, classes = rows()
    targets = {"waves": waves, "classes": classes}.get(y) if isinstance(y, str) else y
    if isinstance(model, fb.Network):
        model = fb.Model(model)
    return model, inputs if X is None else X(inputs), targets, keywords


BINARY = {"y": "classes", "loss": "binary_cross_entropy"}


def outliers(X):
    """One number in a hundred is forty times as large."""
    far = np.random.default_rng(4).uniform(size=X.shape) < 0.003
    return np.where(far, 100.0, 1.0) * X


# Name -> trouble, case. The remedy of each is in the finding.
TROUBLED = {
    "sigmoid through six layers": (
        "vanishing_gradients",
        lambda: case(fb.mlp(8, *[32] * 6, 1, activation="sigmoid"), **BINARY),
    ),
    "sigmoid with sgd": (
        "vanishing_gradients",
        lambda: case(fb.mlp(8, *[32] * 8, 1, activation="sigmoid"), optimizer=fb.SGD(0.05)),
    ),
    "small initial values": (
        "vanishing_gradients",
        lambda: case(scaled(fb.mlp(8, *[32] * 6, 1, activation="tanh"), 0.1), **BINARY),
    ),
    "small initial values of relu": (
        "vanishing_gradients",
        lambda: case(scaled(fb.mlp(8, *[32] * 6, 1), 0.1), **BINARY),
    ),
    "large initial values": (
        "exploding_gradients",
        lambda: case(scaled(fb.mlp(8, *[32] * 6, 1), 4), optimizer=fb.SGD(0.01)),
    ),
    "large initial values of a linear network": (
        "exploding_gradients",
        lambda: case(
            scaled(fb.mlp(8, *[32] * 6, 1, activation="identity"), 3), optimizer=fb.SGD(0.01)
        ),
    ),
    "outliers": (
        "exploding_gradients",
        lambda: case(fb.mlp(8, 32, 1), X=outliers, optimizer=fb.SGD(0.01), batch_size=16),
    ),
    "overflow": (
        "exploding_gradients",
        lambda: case(scaled(fb.mlp(8, *[32] * 6, 1), 1e7)),
    ),
    "a column of thousands": (
        "unscaled_inputs",
        lambda: case(fb.mlp(8, 32, 1), X=lambda X: X * [1, 1, 1, 1, 1500, 1, 1, 1]),
    ),
    "years": (
        "unscaled_inputs",
        lambda: case(fb.mlp(8, 32, 1), X=lambda X: X + 2000.0 * (np.arange(8) == 0)),
    ),
    "tiny inputs": (
        "unscaled_inputs",
        lambda: case(fb.mlp(8, 32, 1), X=lambda X: X * 1e-4, optimizer=fb.SGD(0.05)),
    ),
    "large targets": (
        "unscaled_targets",
        lambda: case(fb.mlp(8, 32, 1), 1e5 * rows()[1] + 2e5),
    ),
    "small targets": ("unscaled_targets", lambda: case(fb.mlp(8, 32, 1), 1e-4 * rows()[1])),
    "sgd too fast": (
        "learning_rate_too_high",
        lambda: case(fb.mlp(8, 32, 1), optimizer=fb.SGD(3.0)),
    ),
    "momentum too fast": (
        "learning_rate_too_high",
        lambda: case(
            fb.mlp(8, 32, 32, 1, activation="tanh"), optimizer=fb.SGD(10.0, momentum=0.9), **BINARY
        ),
    ),
    "adam too fast": (
        "learning_rate_too_high",
        lambda: case(fb.mlp(8, 32, 32, 1), optimizer=fb.Adam(1.0)),
    ),
    "sgd too slow": (
        "learning_rate_too_low",
        lambda: case(fb.mlp(8, 32, 1), optimizer=fb.SGD(1e-6)),
    ),
    "adam too slow": (
        "learning_rate_too_low",
        lambda: case(fb.mlp(8, 32, 32, 1), optimizer=fb.Adam(1e-7), **BINARY),
    ),
    "biases far below zero": (
        "dead_units",
        lambda: case(scaled(fb.mlp(8, 32, 32, 1), 1, bias=-6), **BINARY),
    ),
    "tanh at its ends": (
        "saturated_units",
        lambda: case(scaled(fb.mlp(8, 32, 1, activation="tanh"), 20), **BINARY),
    ),
    "classes as numbers": ("wrong_loss", lambda: case(fb.mlp(8, 32, 1), "classes")),
    "two classes of other numbers": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 1), 2 * rows()[2] - 1),
    ),
    "labels as numbers": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 1), np.digitize(rows()[1], [-0.5, 0, 0.5])),
    ),
    "rows with a single one": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 2), np.eye(2)[rows()[2].astype(int)]),
    ),
    "one class alone": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 2), np.ones(2000, int), loss="cross_entropy"),
    ),
    "logits that cannot be negative": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 1, output_activation="relu"), **BINARY),
    ),
    "outputs that cannot be negative": (
        "wrong_loss",
        lambda: case(fb.mlp(8, 32, 1, output_activation="relu")),
    ),
}

HEALTHY = {
    "relu": lambda: case(fb.mlp(8, 32, 32, 1)),
    "relu with sgd": lambda: case(fb.mlp(8, 32, 32, 1), optimizer=fb.SGD(0.01)),
    "relu with momentum": lambda: case(
        fb.mlp(8, 32, 1), optimizer=fb.SGD(0.01, momentum=0.9), loss="huber"
    ),
    "tanh": lambda: case(fb.mlp(8, 32, 32, 1, activation="tanh"), optimizer=fb.Adam(0.01)),
    "sigmoid": lambda: case(fb.mlp(8, 32, 1, activation="sigmoid")),
    "two layers of sigmoid": lambda: case(fb.mlp(8, 32, 32, 1, activation="sigmoid"), **BINARY),
    "eight layers of relu": lambda: case(fb.mlp(8, *[32] * 8, 1), **BINARY),
    "six layers of tanh": lambda: case(fb.mlp(8, *[32] * 6, 1, activation="tanh"), **BINARY),
    "classes": lambda: case(
        fb.mlp(8, 32, 2, activation="tanh"), rows()[2].astype(int), loss="cross_entropy"
    ),
    "counts": lambda: case(
        fb.mlp(8, 32, 1), np.round(np.exp(rows()[1])), loss="poisson", batch_size=64
    ),
    "quantile": lambda: case(fb.mlp(8, 32, 1), loss=fb.Quantile(0.9)),
    "signs": lambda: case(fb.mlp(8, 32, 1), 2 * rows()[2] - 1, loss="hinge"),
    "pixels": lambda: case(
        fb.mlp(8, 32, 1), X=lambda X: np.clip(X, 0, 1) * (np.arange(8) > 1), **BINARY
    ),
    "standardised": lambda: case(
        fb.mlp(8, 32, 1), 1e5 * rows()[1], X=lambda X: 1e3 * X + 1e4, standardize=True
    ),
    "residual blocks": lambda: case(
        fb.Network(
            8,
            [
                fb.Dense(16),
                *[fb.Residual([fb.LayerNorm(), fb.Dense(16, "relu"), fb.Dense(16)])] * 3,
                fb.Dropout(0.2),
                fb.Dense(1),
            ],
        )
    ),
    "few rows": lambda: case(fb.mlp(8, 8, 1), rows()[1][:40], X=lambda X: X[:40]),
    "rprop": lambda: case(fb.mlp(8, 32, 1), optimizer="rprop", batch_size=2000),
    "weights": lambda: case(
        fb.mlp(8, 32, 1), sample_weight=np.random.default_rng(0).integers(0, 3, 2000), **BINARY
    ),
}
