"""What layers do while they train on a GPU: numbers of its engines against NumPy."""

import pytest
from simulated import WAYS
from test_layer_statistics import Trained, check

from fastbp.backends.cuda import tuning

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize(
    ("way", "purpose"),
    [*((way, "train") for way in WAYS), ("fused", "gradient"), ("layered", "gradient")],
    indirect=["way"],
)
def test_the_same_numbers_on_a_gpu(way, purpose):
    activations = ["relu", "tanh", "identity"]
    batch_rows = 9 if purpose == "train" else 23
    trained = Trained((3, 5, 4, 2), activations, 23, batch_rows, device="cuda", purpose=purpose)
    if purpose == "train":
        assert trained.engine.plan.way == ("resident" if way == "meeting" else way)
    check(trained)


@pytest.mark.parametrize("way", ["fused", "layered"], indirect=True)
def test_segments_shares_and_panels_on_a_gpu(way, monkeypatch):
    monkeypatch.setattr(tuning, "FUSED_SEGMENT_ROWS", 20)
    monkeypatch.setattr(tuning, "LAYERED_SEGMENT_ROWS", 20)
    monkeypatch.setattr(tuning, "SHARE_ROWS", 8)
    activations = ["relu", "softplus", "identity"]
    check(Trained((3, 66, 9, 2), activations, 70, 41, device="cuda", l2=0.1, clip_norm=0.2))
