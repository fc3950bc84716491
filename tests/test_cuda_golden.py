"""The golden trajectories on a simulated GPU, through the real orchestrator.

Each case goes one of the ways to run a step, in turn: resident as one block, resident as blocks that
meet, fused, layered.
"""

import golden
import pytest
from simulated import WAYS
from strategies import scaled_error

import fastbp as fb

pytestmark = pytest.mark.usefixtures("gpu")

# Of the 30 that are stored, a step each: the loss of the last is that of parameters after two updates,
# the second of which had optimizer slots that the first one wrote.
EPOCHS = 3
BOUND = 1e-12  # scaled, float64
# Under the hinge some gradients cancel to zero, and Adam divides the rounding noise that is left by
# its own size and an epsilon of 1e-8 (see test_golden.py).
ADAM_ON_NOISE_BOUND = 1e-10


def trained(case, device):
    model = golden.model(case, "float64")
    X, y, w = golden.data(case)
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
        device=device,
        **{key: case[key] for key in ("clip_norm", "clip_value", "l1", "l2") if key in case},
    )
    return model, result


@pytest.mark.parametrize(
    ("number", "way"),
    [(number, WAYS[number % len(WAYS)]) for number in range(len(golden.CASES))],
    indirect=["way"],
)
def test_losses_and_parameters(number, way):
    case = golden.CASES[number]
    model, result = trained(case, "cuda")
    assert result.device == "cuda:0"
    expected = golden.STORED[f"{number}/losses"][:EPOCHS]
    assert scaled_error(result.history["loss"], expected) < BOUND
    on_processor, _ = trained(case, "cpu")
    noisy = (case["loss"], case["optimizer"]) == ("hinge", "adam")
    bound = ADAM_ON_NOISE_BOUND if noisy else BOUND
    assert scaled_error(model.parameters, on_processor.parameters) < bound
