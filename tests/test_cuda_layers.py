"""Networks with dropout, layer normalisation and residual blocks on a GPU, against the processor."""

import numpy as np
import pytest
from simulated import BOUND, both, problem
from strategies import scaled_error

import fastbp as fb
from fastbp.backends.cuda import tuning

pytestmark = pytest.mark.usefixtures("gpu")

NETWORKS = {
    "dropout": [fb.Dropout(0.2), fb.Dense(9, "tanh"), fb.Dropout(0.5), fb.Dense(2)],
    "norm": [fb.LayerNorm(), fb.Dense(35, "gelu"), fb.LayerNorm(), fb.Dense(2)],
    "residual": [
        fb.Dense(6),
        fb.Residual([fb.LayerNorm(), fb.Dense(33, "silu"), fb.Dropout(0.3), fb.Dense(6)]),
        fb.Residual([fb.Residual([fb.Dense(6, "tanh")])]),
        fb.Dense(2),
    ],
    # The norm of two values is -1 and 1 whatever they are, but for an epsilon that is not small.
    "norm last": [fb.Dense(4, "relu"), fb.Dense(2), fb.LayerNorm(1.0)],
    "residual first": [fb.Residual([fb.Dense(3, "tanh")]), fb.Dense(2)],
}
networks = pytest.mark.parametrize("name", NETWORKS)


@networks
@pytest.mark.parametrize(
    ("dtype", "clip_norm", "epochs"), [("float32", None, 1), ("float64", 0.3, 2)]
)
def test_training_is_that_of_the_processor(epochs, clip_norm, dtype, name):
    """Masks included, which differ from epoch to epoch, with a smaller last batch."""
    X, y = problem(13)
    network = fb.Network(3, NETWORKS[name])
    settings = {"epochs": epochs, "batch_size": 9, "clip_norm": clip_norm}
    both(network, X, y, dtype, optimizer=fb.Adam(0.01), validation=(X[:5], y[:5]), **settings)


@networks
def test_batches_that_come_in_segments(name, monkeypatch):
    monkeypatch.setattr(tuning, "LAYERED_SEGMENT_ROWS", 20)
    X, y = problem(50)
    network = fb.Network(3, NETWORKS[name])
    both(network, X, y, optimizer=fb.SGD(0.1), epochs=1, batch_size=25, shuffle=False)


@networks
@pytest.mark.usefixtures("racing")
def test_no_thread_meets_another(name):
    X, y = problem(18)
    both(fb.Network(3, NETWORKS[name]), X, y, "float32", epochs=1, batch_size=18)


@networks
def test_predictions_and_derivatives_are_those_of_the_processor(name):
    X, y = problem(11)
    model = fb.Model(fb.Network(3, NETWORKS[name]), dtype="float64", seed=1)
    cotangents = np.random.default_rng(0).normal(size=(11, 2))
    calls = [
        lambda device: model.predict(X, device=device),
        lambda device: model.loss(X, y, device=device),
        lambda device: model.loss_and_gradient(X, y, device=device)[1],
        lambda device: model.input_gradient(X, y, device=device),
        lambda device: model.vjp(X, cotangents, device=device),
        lambda device: model.jacobian(X, device=device),
    ]
    for call in calls:
        assert scaled_error(call("cuda"), call("cpu")) < BOUND["float64"]
