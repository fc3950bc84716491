"""The golden trajectories on a simulated GPU, through the real orchestrator."""

import golden
import numpy as np
import pytest
from simulated import gpu  # noqa: F401  (a fixture)
from strategies import scaled_error

import fastbp as fb

pytestmark = pytest.mark.usefixtures("gpu")
EPOCHS = 2  # of the 30 that are stored: two batches each


@pytest.mark.parametrize("number", range(len(golden.CASES)), ids=golden.label)
def test_derivatives_and_the_first_epochs(number):
    case, stored = golden.CASES[number], golden.STORED
    model = golden.model(case, "float64")
    X, y, w = golden.data(case)
    penalties = {key: case[key] for key in ("clip_norm", "clip_value", "l1", "l2") if key in case}
    result = fb.train(
        model,
        X,
        y,
        loss=golden.loss(case),
        optimizer=golden.optimizer(case),
        epochs=EPOCHS,
        batch_size=16,
        shuffle=False,
        sample_weight=w,
        device="cuda",
        **penalties,
    )
    assert result.device == "cuda:0"
    assert scaled_error(result.history["loss"], stored[f"{number}/losses"][:EPOCHS]) < 1e-12
    on_processor = golden.model(case, "float64")
    fb.train(
        on_processor,
        X,
        y,
        loss=golden.loss(case),
        optimizer=golden.optimizer(case),
        epochs=EPOCHS,
        batch_size=16,
        shuffle=False,
        sample_weight=w,
        **penalties,
    )
    assert scaled_error(model.parameters, on_processor.parameters) < 1e-12
    assert np.isfinite(model.parameters).all()
